//! One request to JetStream and its answer.

use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::broker::nats::link::Live;
use crate::broker::{BrokerError, Cause};

/// Error numbers of JetStream that mean something to us (`errors.json` of the server).
pub(super) mod code {
    /// The account may not use JetStream, or the server has it switched off.
    pub(crate) const NOT_ENABLED: [u32; 2] = [10039, 10076];
    /// The stream is not there.
    pub(crate) const STREAM_NOT_FOUND: u32 = 10059;
    /// Somebody created it in the meantime, with another configuration.
    pub(crate) const STREAM_NAME_IN_USE: u32 = 10058;
    /// Another stream takes the same subjects.
    pub(crate) const SUBJECTS_OVERLAP: u32 = 10065;
    /// Nothing is stored under the subject.
    pub(crate) const NO_MESSAGE: u32 = 10037;
    /// The expected last sequence was another one.
    pub(crate) const WRONG_LAST_SEQUENCE: u32 = 10071;
    /// The message, or its headers, are larger than the stream takes.
    pub(crate) const TOO_LARGE: [u32; 2] = [10054, 10097];
    /// No room: in the account, on the server, in memory, on disk, in the stream, or for as large a stream in the account.
    pub(crate) const NO_ROOM: [u32; 6] = [10002, 10023, 10028, 10047, 10077, 10122];
    /// Not enough servers for so many replicas: one server alone, or too small a cluster.
    pub(crate) const TOO_FEW_SERVERS: [u32; 2] = [10074, 10005];
    /// The account may have no more streams.
    pub(crate) const TOO_MANY_STREAMS: u32 = 10027;
    /// The account wants every stream to have a bound in bytes, and the state has none.
    pub(crate) const BYTES_REQUIRED: u32 = 10113;
}

/// Why there is no useful answer.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// JetStream says no.
    Api(ApiError),
    /// Nobody listens to the request's subject: no such stream, or no JetStream.
    NoResponders,
    /// No answer in time, in words.
    NoAnswer(String),
    /// The connection was lost before the answer, or the answer cannot be read; in words.
    Lost(String),
}

/// As JetStream writes it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ApiError {
    /// Like an HTTP status.
    pub(super) code: u16,
    /// See [`code`].
    #[serde(default)]
    pub(super) err_code: u32,
    /// For people.
    #[serde(default)]
    pub(super) description: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer<T> {
    No { error: ApiError },
    Yes(T),
}

impl Failure {
    /// Whether JetStream answered with this error number.
    pub(super) fn is(&self, err_code: u32) -> bool {
        matches!(self, Self::Api(error) if error.err_code == err_code)
    }

    /// Whether JetStream answered with one of these error numbers.
    pub(super) fn is_one_of(&self, err_codes: &[u32]) -> bool {
        matches!(self, Self::Api(error) if err_codes.contains(&error.err_code))
    }

    /// Whether the stream may be missing, which looking after the streams can repair.
    pub(super) fn hints_at_missing_stream(&self) -> bool {
        matches!(self, Self::NoResponders) || self.is(code::STREAM_NOT_FOUND)
    }

    /// As the answer to a published envelope, which is lost when it counts as refused: only what is wrong with the
    /// envelope itself does. Full accounts, disks and streams also answer 400, and pass.
    pub(super) fn of_publish(self) -> BrokerError {
        let too_large = self.is_one_of(&code::TOO_LARGE);
        match self.into() {
            BrokerError::Refused(reason) if !too_large => BrokerError::retryable(Cause::Other, reason),
            error => error,
        }
    }
}

impl From<Failure> for BrokerError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::NoResponders => Self::retryable(
                Cause::NoStream,
                "nothing answers for the stream: it does not exist, or JetStream is off or has no leader",
            ),
            Failure::NoAnswer(reason) => Self::retryable(Cause::NoAnswer, reason),
            Failure::Lost(reason) => Self::retryable(Cause::Disconnected, reason),
            Failure::Api(error) if code::NOT_ENABLED.contains(&error.err_code) => Self::retryable(
                Cause::NoStream,
                "JetStream is not enabled: start nats-server with -js, or enable it for this account",
            ),
            Failure::Api(error) => {
                let text = format!("{} (JetStream error {})", error.description, error.err_code);
                if code::NO_ROOM.contains(&error.err_code) {
                    return Self::retryable(Cause::Full, format!("NATS has no room: {text}"));
                }
                // 400 and 403 judge the request itself; everything else is the servers' state of the moment.
                match error.code {
                    400 | 403 => Self::Refused(text),
                    _ => Self::retryable(Cause::Other, text),
                }
            }
        }
    }
}

/// Reads an answer's body.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    match serde_json::from_slice(body) {
        Ok(Answer::Yes(answer)) => Ok(answer),
        Ok(Answer::No { error }) => Err(Failure::Api(error)),
        Err(error) => Err(Failure::Lost(format!("NATS answered something unreadable: {error}"))),
    }
}

impl Live {
    /// Asks `$JS.API.<verb>`.
    pub(super) async fn api<T: DeserializeOwned>(
        &self,
        verb: &str,
        request: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| Failure::Lost(error.to_string()))?;
        let answer = self.request(format!("$JS.API.{verb}"), HeaderMap::new(), body.into()).await?;
        parse(&answer)
    }

    /// Asks any subject, until an answer, the configured time, or the end of the connection.
    pub(super) async fn request(
        &self,
        subject: String,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Bytes, Failure> {
        let mut request = async_nats::Request::new().payload(body);
        if !headers.is_empty() {
            request = request.headers(headers);
        }
        let answer = tokio::select! {
            answer = self.client.send_request(subject.clone(), request) => answer,
            () = self.closed.cancelled() => return Err(self.lost()),
        };
        match answer {
            Ok(message) => Ok(message.payload),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => Failure::NoResponders,
                RequestErrorKind::TimedOut => self.no_answer(&subject),
                _ => Failure::Lost(error.to_string()),
            }),
        }
    }

    /// The connection ended before the answer.
    pub(super) fn lost(&self) -> Failure {
        Failure::Lost("the connection to NATS was lost before it answered".into())
    }

    /// Too long without an answer; a request that is not permitted ends here, too.
    pub(super) fn no_answer(&self, subject: &str) -> Failure {
        Failure::NoAnswer(format!("NATS did not answer {subject} in time{}", self.complaint()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(code: u16, err_code: u32) -> BrokerError {
        Failure::Api(ApiError { code, err_code, description: "so it is".into() }).of_publish()
    }

    #[test]
    fn only_what_is_wrong_with_an_envelope_itself_refuses_it() {
        for err_code in code::TOO_LARGE {
            assert!(matches!(answered(400, err_code), BrokerError::Refused(_)), "{err_code}");
        }
        // Limits of the account, insufficient resources, a sealed stream, a failed store, something of 2030.
        for (status, err_code, expected) in [
            (400, 10002, Cause::Full),
            (503, 10023, Cause::Full),
            (400, 10109, Cause::Other),
            (503, 10077, Cause::Full),
            (403, 10999, Cause::Other),
        ] {
            let answer = answered(status, err_code);
            assert!(
                matches!(answer, BrokerError::Unavailable { cause, .. } if cause == expected),
                "{answer:?}"
            );
        }
    }
}
