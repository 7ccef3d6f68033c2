//! What an installation has beside the program: completions of shells and manual pages, both made of the command line's own
//! declaration.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use jiff::Timestamp;

use super::Arguments;
use crate::ops::version;

/// Writes the completions of `shell`.
///
/// # Errors
/// When `output` takes no more.
pub fn completions(shell: Shell, output: &mut dyn Write) -> io::Result<()> {
    let mut text = Vec::new();
    // Into memory first: the generator panics where writing fails, and a closed pipe is nobody's problem.
    clap_complete::generate(shell, &mut Arguments::command(), "telecast", &mut text);
    output.write_all(&text)
}

/// Writes telecast.1 and a page for each verb into `folder`, which is made if it is not there. Pages carry the day of `made`,
/// in seconds since 1970, or today's.
///
/// # Errors
/// When there is no such day, the folder cannot be made, or a page cannot be written.
pub fn manual(folder: &Path, made: Option<i64>) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let made = made.map_or_else(|| Ok(Timestamp::now()), Timestamp::from_second).map_err(io::Error::other)?;
    let date = made.strftime("%Y-%m-%d").to_string();
    let mut program = Arguments::command().disable_help_subcommand(true);
    program.build();
    for verb in program.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        write_page(verb, folder, &date)?;
    }
    write_page(&program, folder, &date)
}

fn write_page(command: &Command, folder: &Path, date: &str) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let page = Man::new(command.clone())
        .title(name)
        .date(date)
        .source(format!("telecast {}", version::NUMBER))
        .manual("Telecast");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if let Some(after) = command.get_after_help() {
        sections(&after.to_string()).to_writer(&mut text)?;
    }
    fs::write(folder.join(page.get_filename()), text)
}

/// The text below the help as sections of a page: each paragraph begins with its heading, up to a comma or colon, and the lines of
/// its body stay as they are.
fn sections(text: &str) -> Roff {
    let mut page = Roff::new();
    for paragraph in text.split("\n\n") {
        let (heading, body) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
        let (name, rest) = heading.trim_end_matches(':').split_once(", ").unwrap_or((heading, ""));
        page.control("SH", [name.trim_end_matches(':').to_uppercase().as_str()]);
        if !rest.is_empty() {
            page.text([roman(format!("{rest}:"))]);
        }
        page.control("nf", []);
        for line in body.lines() {
            page.text([roman(line)]);
        }
        page.control("fi", []);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn every_shell_completes_every_verb() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            completions(*shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for verb in Arguments::command().get_subcommands() {
                assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }

    #[test]
    fn every_verb_has_a_page_and_the_program_s_has_all_sections_of_the_help() {
        let folder = tempfile::tempdir().unwrap();
        manual(folder.path(), Some(1_700_000_000)).unwrap();
        for verb in Arguments::command().get_subcommands() {
            assert!(
                folder.path().join(format!("telecast-{}.1", verb.get_name())).exists(),
                "{}",
                verb.get_name()
            );
        }
        let page = fs::read_to_string(folder.path().join("telecast.1")).unwrap();
        assert!(page.contains("\n.TH telecast 1 2023-11-14 "), "{page}");
        for heading in ["EXAMPLES", "CONFIGURATION", "ENVIRONMENT", "\"EXIT CODES\"", "SIGNALS"] {
            assert!(page.contains(&format!("\n.SH {heading}\n")), "{heading}");
        }
    }
}
