//! What both ways in may say about their data: `collector` and `precision`.

use axum::extract::Query;
use axum::http::{HeaderMap, Uri};

use crate::ops::reply::ApiError;
use crate::proto::channel::CollectorId;
use crate::proto::line::Precision;

/// Names the collector; stronger than the `collector` parameter.
pub(super) const COLLECTOR_HEADER: &str = "x-collector-id";

/// The parameters that mean something here.
const OURS: [&str; 2] = ["collector", "precision"];

/// Two texts that differ in so many letters may be one that was mistyped.
const TYPING_ERRORS_MAX: usize = 2;

/// Parameters of a socket or a write. Others (`org`, `bucket`, `db`, `rp`, `u`, `p`) are InfluxDB's and mean nothing here, but one
/// that is nearly ours is a mistake that nothing else would show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Params {
    /// Whose metrics these are; otherwise their `host` tags say so.
    pub(super) collector: Option<CollectorId>,
    /// The timestamps' unit, where it is not the format's own.
    pub(super) precision: Option<Precision>,
}

impl Params {
    pub(super) fn parse(uri: &Uri, headers: &HeaderMap) -> Result<Self, ApiError> {
        let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|error| {
            ApiError::bad_request("bad_query", format!("the query cannot be read: {error}"))
        })?;
        if let Some((name, meant)) = query.iter().find_map(|(name, _)| Some((name, nearly_ours(name)?))) {
            let message = format!("{name:?} is no parameter: did you mean {meant}?");
            return Err(ApiError::bad_request("bad_query", message));
        }
        let of = |name| only_value(&query, name);
        let header = match headers.get(COLLECTOR_HEADER) {
            Some(value) => Some(std::str::from_utf8(value.as_bytes()).map_err(|_| {
                ApiError::bad_request("bad_collector", "the header X-Collector-Id is no UTF-8 text")
            })?),
            None => None,
        };
        let collector = |id: Option<&str>| {
            id.map(CollectorId::new).transpose().map_err(|error| {
                ApiError::bad_request("bad_collector", format!("{error}; leave it out to use host tags"))
            })
        };
        // Both are read, so that one that is wrong is found where it stands, and not only once the other one is left out.
        let (header, parameter) = (collector(header)?, collector(of("collector")?)?);
        let collector = header.or(parameter);
        let precision = match of("precision")? {
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

/// The value of a parameter, which may be repeated as it is but not with another value.
fn only_value<'q>(query: &'q [(String, String)], name: &str) -> Result<Option<&'q str>, ApiError> {
    let mut values = query.iter().filter(|(found, _)| found == name).map(|(_, value)| &**value);
    let first = values.next();
    if values.all(|value| Some(value) == first) {
        return Ok(first);
    }
    Err(ApiError::bad_request("bad_query", format!("{name} is given twice: leave out one of them")))
}

/// Which of our parameters was meant by one that is none: in other letters, with other or no separators, as an id, or mistyped.
fn nearly_ours(name: &str) -> Option<&'static str> {
    if OURS.contains(&name) {
        return None;
    }
    let plain: String =
        name.chars().filter(|c| c.is_alphanumeric()).map(|c| c.to_ascii_lowercase()).take(32).collect();
    let plain = plain.strip_prefix('x').filter(|_| name.starts_with(['x', 'X'])).unwrap_or(&plain);
    let plain = plain.strip_suffix("id").or(plain.strip_suffix("name")).unwrap_or(plain);
    OURS.into_iter().find(|ours| strsim::levenshtein(plain, ours) <= TYPING_ERRORS_MAX)
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
        assert_eq!(check("/write?collector=", Some("b")), Err("bad_collector"));
        assert_eq!(check("/write?db=x&u=me&p=secret", None).unwrap().collector, None);
    }

    #[test]
    fn what_is_nearly_a_parameter_is_refused_with_the_right_one() {
        for (name, meant) in [
            ("colector", "collector"),
            ("Collector", "collector"),
            ("collectorId", "collector"),
            ("collector_id", "collector"),
            ("X-Collector-Id", "collector"),
            ("collector-name", "collector"),
            ("colletcor", "collector"),
            ("collectors", "collector"),
            ("precison", "precision"),
            ("PRECISION", "precision"),
            ("presicion", "precision"),
        ] {
            let uri = format!("/write?db=x&{name}=s").parse().unwrap();
            let error = Params::parse(&uri, &HeaderMap::new()).unwrap_err();
            assert_eq!(error.code, "bad_query");
            assert!(error.message.contains(&format!("did you mean {meant}?")), "{name}: {}", error.message);
        }
    }

    #[test]
    fn parameters_of_other_programs_mean_nothing() {
        let foreign = "org=o&orgID=1&bucket=b&db=d&rp=r&u=me&p=x&consistency=all&epoch=s&host=h&q=1&pretty=true&version=2\
                       &chunked=true&token=t&accept_partial=true&no_sync=true&_=17&extra_label=a&position=3";
        assert_eq!(
            check(&format!("/write?{foreign}"), None),
            Ok(Params { collector: None, precision: None })
        );
    }

    #[test]
    fn a_parameter_with_two_values_is_refused() {
        assert_eq!(check("/write?collector=a&collector=b", None), Err("bad_query"));
        assert_eq!(check("/write?precision=s&precision=ms", None), Err("bad_query"));
        assert_eq!(
            check("/write?precision=s&precision=s", None).unwrap().precision,
            Some(Precision::Seconds)
        );
    }

    #[test]
    fn unreadable_parameters_are_refused_by_name() {
        assert_eq!(check("/write?precision=fortnight", None), Err("bad_precision"));
        assert_eq!(check("/write?collector=", None), Err("bad_collector"));
        assert_eq!(check("/write?precision=", None).unwrap().precision, None);
        assert_eq!(check("/write?precision=m", None).unwrap().precision, Some(Precision::Minutes));
    }
}
