//! The fenced examples of docs/protocol.md and docs/clients.md.
//!
//! | fence | what happens to it |
//! |---|---|
//! | `json` | each line that is a message of a server is compared in shape with messages that servers have sent |
//! | none, with lines `> …` and `< …` | what stands behind `>` is sent to a node, which must answer what stands behind `<` |
//! | none, beginning with `# offset` | held to the schema of line protocol |
//! | `console` | each command behind `$` is run against a node, and must print the lines below it |
//! | `sh` | the same, while metrics come; it must print some. `websocat` is not among what tests need: its lines are not run |
//! | `python`, `js` | the program is run against a node, and must print what its last line says behind `prints: ` |
//!
//! `…` stands for anything, and more lines may come than are shown.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use crate::alike::{self, Compare, compare};
use crate::channels::{Connection, Messages, parse};
use crate::documents::{self, LATEST, is_awaited};
use crate::nodes::Stage;
use crate::support::{self, PATIENCE};

/// Between two metrics that come while a script runs.
const BEAT: Duration = Duration::from_millis(100);

const DOCUMENTS: [&str; 2] = ["docs/protocol.md", "docs/clients.md"];

/// What stands between two lines of three backquotes.
struct Fence {
    /// `docs/protocol.md:17`.
    place: String,
    language: String,
    lines: Vec<String>,
}

impl Fence {
    fn all() -> Vec<Self> {
        let mut fences = Vec::new();
        for document in DOCUMENTS {
            let text = documents::text(document);
            let mut lines = text.lines().enumerate();
            while let Some((number, line)) = lines.next() {
                let Some(language) = line.strip_prefix("```") else { continue };
                let inside = lines.by_ref().map(|(_, line)| line.to_owned()).take_while(|line| line != "```");
                let place = format!("{document}:{}", number + 1);
                fences.push(Self { place, language: language.to_owned(), lines: inside.collect() });
            }
        }
        fences
    }

    fn is_dialogue(&self) -> bool {
        self.language.is_empty() && self.lines.iter().any(|line| line.starts_with("> "))
    }
}

/// Holds the messages of servers in the documents to what has come from servers.
pub fn shows_what_servers_send(messages: &Messages, captured: &[Value]) {
    let mut compared = 0;
    for fence in Fence::all() {
        let examples: Vec<Value> = match fence.language.as_str() {
            "json" => fence.lines.iter().map(|line| parse(line)).collect(),
            "" if fence.lines[0].starts_with("# offset") => vec![(fence.lines.join("\n") + "\n").into()],
            _ => continue,
        };
        for example in examples {
            let place = &fence.place;
            messages.check(&example).unwrap_or_else(|errors| panic!("{place}: {errors}"));
            let is_alike = |message| compare(Compare::Shape, &example, message).is_ok();
            assert!(captured.iter().any(is_alike), "{place}: no server sends such a message: {example}");
            compared += 1;
        }
    }
    assert!(compared >= 5, "{compared} examples");
}

#[tokio::test]
async fn dialogues_go_as_they_are_written() {
    let dialogues: Vec<Fence> = Fence::all().into_iter().filter(Fence::is_dialogue).collect();
    assert!(!dialogues.is_empty());
    for Fence { place, lines, .. } in dialogues {
        let stage = Stage::when(None).await;
        let mut connection = Connection::open(stage.address(), "/ws").await;
        for line in lines {
            if let Some(sent) = line.strip_prefix("> ") {
                connection.send(sent).await;
            } else if let Some(wanted) = line.strip_prefix("< ") {
                let comes =
                    async { while !alike::matches(wanted, &connection.next().await.unwrap_or_default()) {} };
                support::patiently(&format!("{place}: {wanted}"), comes).await;
            } else {
                panic!("{place}: who says `{line}`?");
            }
        }
    }
}

#[tokio::test]
async fn commands_print_what_is_written_below_them() {
    let consoles: Vec<Fence> = Fence::all().into_iter().filter(|fence| fence.language == "console").collect();
    assert!(!consoles.is_empty());
    for Fence { place, lines, .. } in consoles {
        let stage = Stage::when(None).await;
        for (command, output) in commands(&lines) {
            if is_awaited(LATEST) && command.contains(LATEST) {
                continue;
            }
            let command = command.replace("localhost:9090", &stage.address().to_string());
            prints(&place, Command::new("sh").args(["-c", &command]), &output).await;
        }
    }
}

/// Each command, and what it prints. A backslash at the end of a line continues the command.
fn commands(lines: &[String]) -> Vec<(String, String)> {
    let mut commands: Vec<(String, String)> = Vec::new();
    let mut continues = false;
    for line in lines {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command.to_owned(), String::new()));
        } else {
            let (command, output) = commands.last_mut().expect("a console begins with a command");
            let part = if continues { command } else { output };
            part.push('\n');
            part.push_str(line);
        }
        continues = (continues || line.starts_with("$ ")) && line.ends_with('\\');
    }
    commands
}

#[tokio::test]
async fn scripts_print_metrics_that_come() {
    let is_script = |fence: &Fence| fence.language == "sh" && !fence.lines.concat().contains("websocat");
    let scripts: Vec<Fence> = Fence::all().into_iter().filter(is_script).collect();
    assert!(!scripts.is_empty());
    for Fence { place, lines, .. } in scripts {
        let stage = Stage::when(None).await;
        let script = lines.join("\n").replace("localhost:9090", &stage.address().to_string());
        let mut shell = Command::new("sh");
        let metrics_come = async {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                beat.tick().await;
                stage.node.post("/api/v1/write", "mem,host=web-01 used_percent=3.17").await;
            }
        };
        tokio::select! {
            () = prints(&place, shell.args(["-c", &script]), "…\"metrics\":[{\"name\":\"mem\",…") => {}
            () = metrics_come => {}
        }
    }
}

#[tokio::test]
async fn programs_print_what_they_say() {
    let programs =
        Fence::all().into_iter().filter(|fence| ["python", "js"].contains(&fence.language.as_str()));
    for Fence { place, language, lines } in programs {
        let stage = Stage::when(None).await;
        let program = lines.join("\n").replace("localhost:9090", &stage.address().to_string());
        let (_, output) =
            program.rsplit_once("prints: ").unwrap_or_else(|| panic!("{place} does not say what it prints"));
        let mut command = match language.as_str() {
            "python" => Command::new("python3"),
            _ => Command::new("node"),
        };
        let arguments: &[&str] = match language.as_str() {
            "python" => &["-u", "-c"],
            // Node has the WebSocket of browsers from 22 on; before that, only if asked.
            _ => &["--experimental-websocket", "-e"],
        };
        prints(&place, command.args(arguments).arg(&program), output).await;
    }
}

/// Runs a command until it has printed this. What goes on for ever is ended then.
async fn prints(place: &str, command: &mut Command, output: &str) {
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{place}: {command:?}: {error}"));
    let mut lines = BufReader::new(process.stdout.take().expect("its output")).lines();
    let deadline = Instant::now() + PATIENCE;
    let mut wanted = output.lines().filter(|line| !line.is_empty()).peekable();
    let mut printed = String::new();
    while let Some(next) = wanted.peek() {
        match timeout_at(deadline, lines.next_line()).await {
            Ok(Ok(Some(line))) => {
                if alike::matches(next, &line) {
                    wanted.next();
                }
                printed.push_str(&line);
                printed.push('\n');
            }
            _ => panic!("{place}: {command:?} did not print\n{next}\nbut\n{printed}"),
        }
    }
}
