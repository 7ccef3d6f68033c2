//! What both ways in may say about their data: `collector` and `precision`.

use std::collections::HashMap;

use axum::extract::Query;
use axum::http::{HeaderMap, Uri};

use crate::ops::reply::ApiError;
use crate::proto::channel::CollectorId;
use crate::proto::line::Precision;

/// Names the collector; stronger than the `collector` parameter.
pub(super) const COLLECTOR_HEADER: &str = "x-collector-id";

/// Parameters of a socket or a write. Others (`org`, `bucket`, `db`, `rp`, `u`, `p`) are InfluxDB's and mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Params {
    /// Whose metrics these are; otherwise their `host` tags say so.
    pub(super) collector: Option<CollectorId>,
    /// The timestamps' unit, where it is not the format's own.
    pub(super) precision: Option<Precision>,
}

impl Params {
    pub(super) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        let Query(query) = Query::<HashMap<String, String>>::try_from_uri(uri).map_err(|error| {
            ApiError::bad_request("bad_query", format!("the query cannot be read: {error}"))
        })?;
        let header = match headers.get(COLLECTOR_HEADER) {
            Some(value) => Some(std::str::from_utf8(value.as_bytes()).map_err(|_| {
                ApiError::bad_request("bad_collector", "the header X-Collector-Id is no UTF-8 text")
            })?),
            None => None,
        };
        let collector =
            header.or(query.get("collector").map(String::as_str)).map(CollectorId::new).transpose().map_err(
                |error| {
                    ApiError::bad_request("bad_collector", format!("{error}; leave it out to use host tags"))
                },
            )?;
        let precision = match query.get("precision").map(String::as_str) {
            // InfluxDB clients send an empty one for the default.
            None | Some("") => None,
            Some(text) => Some(text.parse().map_err(|_| {
                ApiError::bad_request(
                    "bad_precision",
                    format!("precision={text:?} is not known: use ns, us, ms, s, m or h, or leave it out"),
                )
            })?),
        };
        Ok(Self { collector, precision })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(uri: &str, header: Option<&str>) -> Result<Params, &'static str> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(COLLECTOR_HEADER, header.parse().unwrap());
        }
        Params::parse(&uri.parse().unwrap(), &headers).map_err(|error| error.code)
    }

    #[test]
    fn the_header_is_stronger_than_the_parameter() {
        let params = check("/write?collector=a", Some("b")).unwrap();
        assert_eq!(params.collector.unwrap().as_str(), "b");
        assert_eq!(check("/write?collector=a%20b", None).unwrap().collector.unwrap().as_str(), "a b");
        assert_eq!(check("/write?db=x&u=me&p=secret", None).unwrap().collector, None);
    }

    #[test]
    fn unreadable_parameters_are_refused_by_name() {
        assert_eq!(check("/write?precision=fortnight", None), Err("bad_precision"));
        assert_eq!(check("/write?collector=", None), Err("bad_collector"));
        assert_eq!(check("/write?precision=", None).unwrap().precision, None);
        assert_eq!(check("/write?precision=m", None).unwrap().precision, Some(Precision::Minutes));
    }
}
