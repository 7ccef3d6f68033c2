//! `telecast status`: one running node's health, for people, scripts and container engines.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Uri;
use serde_json::{Value, json};

use crate::config::{self, Inputs, Machine, Role};
use crate::proto::printable::{printable, printable_json};

/// A node answers within milliseconds. One that takes longer than this does not do its work, and a health check of a container
/// engine gives up after five seconds itself.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// An answer has a few hundred bytes; what is longer is not ours.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// What is asked for.
const PATH: &str = "/health/detailed";

/// `telecast status`.
#[derive(Debug, Clone, Default, Args)]
pub struct StatusArguments {
    /// The node to ask, as http://HOST:PORT [default: where a node on this machine listens, as configured]
    #[arg(long)]
    url: Option<String>,
    /// Print the node's whole answer as JSON
    #[arg(long)]
    json: bool,
}

/// An address that cannot be one of a node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not readable, or with a path.
    #[error("--url: `{0}` is no address of a node: it looks like http://HOST:PORT")]
    Malformed(String),
    /// TLS is for proxies.
    #[error("--url: `{0}`: TLS is not spoken here: give the http:// address of the node behind the proxy")]
    Tls(String),
}

/// What was found out.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// One line for people, or JSON.
    pub text: String,
    /// Whether the node does its work: also true when degraded.
    pub healthy: bool,
}

impl StatusArguments {
    /// Asks, and says what to print. Blocks for a few seconds at most.
    pub fn run(&self, variables: &[(String, String)], machine: &Machine) -> Result<Report, UrlError> {
        let nodes = match &self.url {
            Some(url) => vec![authority(url)?],
            None => configured(variables, machine),
        };
        let mut refusals = Vec::new();
        for node in &nodes {
            match ask(node).and_then(|answer| read(&answer)) {
                Ok(answer) => return Ok(self.report(answer)),
                Err(error) => refusals.push(format!("{node}: {error}")),
            }
        }
        let error = refusals.join("; ");
        Ok(Report {
            text: match self.json {
                true => json!({"status": "unreachable", "healthy": false, "errors": refusals}).to_string(),
                false => {
                    let error = printable(&error);
                    format!("no node answers: {error}. Is it running, and is this its port?")
                }
            },
            healthy: false,
        })
    }

    fn report(&self, Answer { body, health }: Answer) -> Report {
        // Names in it are whatever peers have sent.
        let text = match self.json {
            true => printable_json(&body).into_owned(),
            false => printable(&sentence(&health)).into_owned(),
        };
        Report { text, healthy: health["healthy"] == true }
    }
}

/// `HOST:PORT` of a URL.
fn authority(url: &str) -> Result<String, UrlError> {
    let malformed = || UrlError::Malformed(url.to_owned());
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = whole.parse().map_err(|_| malformed())?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err(UrlError::Tls(url.to_owned())),
        _ => return Err(malformed()),
    }
    let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(malformed)?;
    let bare = uri.authority().is_some_and(|authority| authority.as_str() == host);
    let port = if bare { Some(80) } else { uri.port_u16() }.filter(|port| *port > 0);
    match (uri.path(), uri.query()) {
        ("" | "/", None) => Ok(format!("{host}:{}", port.ok_or_else(malformed)?)),
        _ => Err(malformed()),
    }
}

/// Where nodes of this machine listen by the same files and variables they were started with. Roles that could not start with
/// them have no node.
fn configured(variables: &[(String, String)], machine: &Machine) -> Vec<String> {
    let mut nodes = Vec::new();
    for role in [Role::Standalone, Role::Ingest, Role::Edge] {
        let inputs: Inputs = super::Serving::default().inputs(role, variables.to_vec(), machine.clone());
        let Ok(loaded) = config::load(&inputs) else { continue };
        let mut listen = loaded.settings.server.listen;
        if listen.ip().is_unspecified() {
            listen.set_ip(match listen {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let node = listen.to_string();
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// The whole answer of the node. HTTP/1.0, so that it has neither chunks nor a connection that stays open.
fn ask(node: &str) -> io::Result<String> {
    let until = Instant::now() + ANSWER_TIMEOUT;
    let left = || {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(left) }
    };
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in node.to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&address, left()?) {
            Ok(stream) => stream,
            Err(error) => {
                last = error;
                continue;
            }
        };
        stream.set_write_timeout(Some(left()?))?;
        let request = format!("GET {PATH} HTTP/1.0\r\nHost: {node}\r\nAccept: application/json\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        while answer.len() as u64 <= ANSWER_BYTES_MAX {
            let mut part = [0; 4_096];
            // What came byte by byte would otherwise restart the time-out with each of them.
            stream.set_read_timeout(Some(left()?))?;
            match stream.read(&mut part) {
                Ok(0) => return Ok(String::from_utf8_lossy(&answer).into_owned()),
                Ok(read) => answer.extend_from_slice(&part[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) => return Err(error),
            }
        }
        return Err(stranger("it does not end"));
    }
    Err(last)
}

/// What a node says about itself.
struct Answer {
    /// As it came: its members are in the order in which people read them.
    body: String,
    health: Value,
}

/// 503 is an answer too: it says what is wrong.
fn read(answer: &str) -> io::Result<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| stranger("it is not HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    match serde_json::from_str::<Value>(body) {
        Ok(health) if health["healthy"].is_boolean() => {
            Ok(Answer { body: body.trim_end().to_owned(), health })
        }
        _ => Err(stranger(status)),
    }
}

fn stranger(what: &str) -> io::Error {
    io::Error::other(format!("the answer is none of a Telecast node ({what})"))
}

fn sentence(health: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let checks = &health["checks"];
    let percentage = |check: &str| checks[check]["percentage"].as_f64().unwrap_or(0.0).round();
    let mut sentence = format!(
        "{}: {} {} is {}, {} of {} clients, memory {} %, CPU {} %, up {} s",
        text(&health["status"]),
        text(&health["role"]),
        text(&health["node"]),
        text(&health["state"]),
        checks["capacity"]["current"],
        checks["capacity"]["max"],
        percentage("memory"),
        percentage("cpu"),
        health["uptime"],
    );
    for (member, label) in [("errors", ""), ("warnings", ""), ("not_ready", "not ready: ")] {
        for reason in health[member].as_array().into_iter().flatten() {
            sentence.push_str(&format!("; {label}{}", text(reason)));
        }
    }
    sentence
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn machine() -> Machine {
        Machine { host_name: "h".to_owned(), cores: 1, descriptors: 1024 }
    }

    /// Asks a listener that answers with exactly this.
    fn asked(json: bool, answer: &'static str) -> Report {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = Some(format!("http://{}", listener.local_addr().unwrap()));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 1_024];
                let read = stream.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /health/detailed HTTP/1.0\r\n"));
                stream.write_all(answer.as_bytes()).unwrap();
            });
            StatusArguments { url, json }.run(&[], &machine()).unwrap()
        })
    }

    const DEGRADED: &str = "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n\
        {\"status\":\"degraded\",\"healthy\":true,\"checks\":{\"capacity\":{\"current\":9,\"max\":10},\"memory\":\
        {\"percentage\":12.4},\"cpu\":{\"percentage\":3.0}},\"warnings\":[\"connections at 90 %\"],\"errors\":[],\
        \"uptime\":7,\"node\":\"edge-1\",\"role\":\"edge\",\"state\":\"draining\",\"not_ready\":[\"draining\"]}";

    #[test]
    fn a_node_that_works_is_healthy_and_described_in_one_line() {
        let report = asked(false, DEGRADED);
        let line = "degraded: edge edge-1 is draining, 9 of 10 clients, memory 12 %, CPU 3 %, up 7 s; \
                    connections at 90 %; not ready: draining";
        assert_eq!(report, Report { text: line.to_owned(), healthy: true });
        assert_eq!(asked(true, DEGRADED).text, DEGRADED.split_once("\r\n\r\n").unwrap().1);
    }

    #[test]
    fn nothing_that_an_answer_holds_steers_the_terminal() {
        let bidi =
            "HTTP/1.0 200 OK\r\n\r\n{\"healthy\":true,\"status\":\"ok\",\"node\":\"a\u{202e}b\\u001b[2J\"}";
        let text = asked(false, bidi).text;
        assert!(text.contains("a\\u{202e}b\\u{1b}[2J is"), "{text}");
        assert!(asked(true, bidi).text.contains("a\\u202eb\\u001b[2J"));
        let stranger = asked(false, "SSH-2.0-\u{1b}]0;owned\u{7}\r\n\r\n").text;
        assert!(!stranger.contains(char::is_control), "{stranger:?}");
    }

    #[test]
    fn an_unhealthy_node_says_why() {
        let report = asked(
            false,
            "HTTP/1.0 503 Service Unavailable\r\n\r\n{\"status\":\"unhealthy\",\"healthy\":false,\
             \"errors\":[\"NATS is not connected: refused\"]}",
        );
        assert!(!report.healthy);
        assert!(report.text.starts_with("unhealthy: "), "{}", report.text);
        assert!(report.text.ends_with("; NATS is not connected: refused"), "{}", report.text);
    }

    #[test]
    fn what_is_no_node_is_said_to_be_none() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{\"healthy\":\"yes\"}",
            "SSH-2.0-x\r\n",
        ] {
            let report = asked(false, answer);
            assert!(!report.healthy && report.text.contains("none of a Telecast node"), "{}", report.text);
        }
    }

    #[test]
    fn nobody_at_all_is_unhealthy() {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let arguments = StatusArguments { url: Some(format!("127.0.0.1:{port}")), json: true };
        let report = arguments.run(&[], &machine()).unwrap();
        let json: Value = serde_json::from_str(&report.text).unwrap();
        assert_eq!((report.healthy, &json["status"]), (false, &json!("unreachable")));
        assert!(json["errors"][0].as_str().unwrap().contains(&format!("127.0.0.1:{port}: ")), "{json}");
    }

    #[test]
    fn a_url_that_cannot_be_one_is_told_what_one_looks_like() {
        for (url, authority_or_part) in [
            ("http://edge:3002", Ok("edge:3002")),
            ("http://edge:3002/", Ok("edge:3002")),
            ("edge:3002", Ok("edge:3002")),
            ("http://[::1]:3002", Ok("[::1]:3002")),
            ("http://edge", Ok("edge:80")),
            ("https://edge:3002", Err("behind the proxy")),
            ("http://edge:3002/health", Err("http://HOST:PORT")),
            ("ws://edge:3002", Err("http://HOST:PORT")),
            ("http://edge:0", Err("http://HOST:PORT")),
            ("", Err("http://HOST:PORT")),
        ] {
            match (authority(url), authority_or_part) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{url}"),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{url}: {error}"),
                (found, _) => panic!("{url}: {found:?}"),
            }
        }
    }

    #[test]
    fn without_a_url_the_configuration_says_where_nodes_are() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let folder = tempfile::tempdir().unwrap();
        let nowhere = variable("TELECAST_CONFIG_DIR", &folder.path().display().to_string());
        let nodes = |variables: &[(String, String)]| configured(variables, &machine());
        assert_eq!(nodes(std::slice::from_ref(&nowhere)), ["127.0.0.1:9090", "127.0.0.1:3002"]);
        let moved = variable("TELECAST__EDGE__PORT", "4000");
        assert_eq!(nodes(&[nowhere, moved]), ["127.0.0.1:9090", "127.0.0.1:4000"]);
    }
}
