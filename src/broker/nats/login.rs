//! Addresses and credentials: read before the start and again for every connection; what is wrong with them names the key.

use std::path::Path;

use async_nats::{ConnectOptions, ServerAddr};

use crate::config::NatsSettings;

/// A credentials file has a token and a seed, some 2 KiB.
const CREDENTIALS_BYTES_MAX: u64 = 1 << 20;

const ADDRESSES: &str = "NATS addresses like nats://127.0.0.1:4222, separated by commas";
const CREDENTIALS: &str =
    "a credentials file as `nsc generate creds` writes it, with a NATS USER JWT and a USER NKEY SEED";

/// A key of the configuration whose value could never work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: must be {expected}")]
pub struct Unusable {
    /// Which.
    pub key: &'static str,
    /// What it would have to be, and what it is instead. Holds no secret.
    pub expected: String,
}

/// What could never work: an address that is none, a credentials file that is not there or none.
pub fn check(nats: &NatsSettings) -> Result<(), Unusable> {
    server_addresses(&nats.url)?;
    match &nats.credentials_file {
        Some(file) => read(file).and_then(|text| parse(ConnectOptions::new(), &text)).map(drop),
        None => Ok(()),
    }
}

/// The servers, in order.
pub(super) fn server_addresses(urls: &str) -> Result<Vec<ServerAddr>, Unusable> {
    let unusable = |problem: &str| Unusable { key: "nats.url", expected: format!("{ADDRESSES} ({problem})") };
    let urls: Vec<_> = urls.split(',').map(str::trim).filter(|url| !url.is_empty()).collect();
    if urls.is_empty() {
        return Err(unusable("there is none"));
    }
    let parse = |url: &&str| url.parse().map_err(|error: std::io::Error| unusable(&error.to_string()));
    urls.iter().map(parse).collect()
}

/// Adds everything that was configured.
pub(super) async fn with_credentials(
    mut options: ConnectOptions,
    nats: &NatsSettings,
) -> Result<ConnectOptions, String> {
    if let Some(token) = &nats.token {
        options = options.token(token.0.clone());
    }
    if let (Some(user), Some(password)) = (&nats.user, &nats.password) {
        options = options.user_and_password(user.clone(), password.0.clone());
    }
    if let Some(file) = &nats.credentials_file {
        let path = file.clone();
        let task =
            tokio::task::spawn_blocking(move || read(&path)).await.map_err(|error| error.to_string())?;
        let parsed = task.and_then(|text| parse(options, &text));
        options = parsed.map_err(|error| format!("{error}: {}", file.display()))?;
    }
    Ok(options)
}

/// The server does not let us in: which keys it was given, or that it was given none. Never their values.
pub(super) fn refused(nats: &NatsSettings, server: &ServerAddr, address: &str) -> String {
    let mut given = Vec::new();
    if nats.user.is_some() {
        given.push("nats.user and nats.password".to_owned());
    } else if server.has_user_pass() {
        given.push("the user and password in nats.url".to_owned());
    }
    if nats.token.is_some() {
        given.push("nats.token".to_owned());
    }
    if let Some(file) = &nats.credentials_file {
        given.push(format!("nats.credentials_file ({})", file.display()));
    }
    let advice = match given.is_empty() {
        false => format!("check {}", given.join(" and ")),
        true => "set nats.user and nats.password, nats.token or nats.credentials_file".to_owned(),
    };
    format!("NATS at {address} refuses the credentials (authorization violation): {advice}")
}

fn read(file: &Path) -> Result<String, Unusable> {
    let about = std::fs::metadata(file).map_err(|error| no_credentials(&error.to_string()))?;
    if !about.is_file() {
        return Err(no_credentials("it is no file"));
    }
    if about.len() > CREDENTIALS_BYTES_MAX {
        return Err(no_credentials("it is too large"));
    }
    std::fs::read_to_string(file).map_err(|error| no_credentials(&error.to_string()))
}

fn parse(options: ConnectOptions, text: &str) -> Result<ConnectOptions, Unusable> {
    // The library's reason may quote what it read.
    options.credentials(text).map_err(|_| no_credentials("it holds something else"))
}

fn no_credentials(problem: &str) -> Unusable {
    Unusable { key: "nats.credentials_file", expected: format!("{CREDENTIALS} ({problem})") }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    fn nats(url: &str) -> NatsSettings {
        NatsSettings {
            url: url.into(),
            credentials_file: None,
            user: None,
            password: None,
            token: None,
            request_timeout: Duration::from_secs(1),
        }
    }

    #[test]
    fn what_could_never_connect_is_found_before_the_start() {
        assert_eq!(check(&nats("nats://user:secret@one:4223, two")), Ok(()));
        for url in [" , ", "http://x", "nats://:4222", "nats://one:99999", "nats://u:5ecret@[::1"] {
            let error = check(&nats(url)).unwrap_err();
            assert!(error.key == "nats.url" && !error.expected.contains("5ecret"), "{url}: {error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("telecast.creds");
        let refused = |file: &Path| {
            let nats = NatsSettings { credentials_file: Some(file.into()), ..nats("nats://one") };
            let Unusable { key, expected } = check(&nats).unwrap_err();
            assert!(key == "nats.credentials_file" && expected.contains("USER NKEY SEED"), "{expected}");
            expected
        };
        assert!(refused(&file).contains("No such file"));
        std::fs::write(&file, "a secret of another kind").unwrap();
        assert!(!refused(&file).contains("another kind"));
        assert!(refused(folder.path()).contains("it is no file"));
    }

    #[test]
    fn refused_credentials_name_their_keys_and_never_their_values() {
        let server = |url: &str| server_addresses(url).unwrap().remove(0);
        let none = refused(&nats("one"), &server("one"), "one:4222");
        assert!(
            none.contains("set nats.user and nats.password, nats.token or nats.credentials_file"),
            "{none}"
        );
        let given = NatsSettings {
            user: Some("u-5ecret".into()),
            password: Some(Secret("p-5ecret".into())),
            token: Some(Secret("t-5ecret".into())),
            credentials_file: Some("/run/telecast.creds".into()),
            ..nats("one")
        };
        let given = refused(&given, &server("one"), "one:4222");
        for word in
            ["nats.user", "nats.password", "nats.token", "nats.credentials_file (/run/telecast.creds)"]
        {
            assert!(given.contains(word), "{word} in {given}");
        }
        let in_url = refused(&nats("one"), &server("nats://u-5ecret:p-5ecret@one"), "one:4222");
        assert!(in_url.contains("in nats.url"), "{in_url}");
        assert!([&none, &given, &in_url].iter().all(|text| !text.contains("5ecret")));
    }
}
