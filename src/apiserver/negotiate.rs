//! What a client wants back, from `Accept` (apiserver/pkg/endpoints/handlers/negotiation).
//!
//! Clauses that we do not speak (protobuf, CBOR) are passed over in favour of the next one.

use super::status::ApiError;
use http::{HeaderMap, header};

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata` or its list.
    Metadata,
    /// Aggregated discovery (`apidiscovery.k8s.io`).
    Discovery,
}

/// In which notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// What a client wants back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In which form.
    pub shape: Shape,
    /// In which notation.
    pub format: Format,
    /// As the metadata of a list.
    pub of_list: bool,
}

/// Reads `Accept`; no header means JSON, nothing that we speak is 406.
pub fn accept(headers: &HeaderMap) -> Result<Wanted, ApiError> {
    let all: Vec<_> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .collect();
    let all = all.join(",");
    if all.trim().is_empty() {
        return Ok(Wanted {
            shape: Shape::Object,
            format: Format::Json,
            of_list: false,
        });
    }
    let mut clauses: Vec<_> = all.split(',').filter_map(clause).collect();
    // Stable: equal weights stay in the client's order.
    clauses.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    clauses
        .first()
        .map(|(_, wanted)| *wanted)
        .ok_or(ApiError::NotAcceptable)
}

/// Weight (in thousandths) and meaning of a clause that we speak.
fn clause(text: &str) -> Option<(u32, Wanted)> {
    let mut parts = text.split(';').map(str::trim);
    let format = match parts.next()?.to_ascii_lowercase().as_str() {
        "application/json" | "application/*" | "*/*" => Format::Json,
        "application/yaml" => Format::Yaml,
        _ => return None,
    };
    let (mut weight, mut kind, mut group, mut version) = (1000, None, "", "");
    for (key, value) in parts.filter_map(|p| p.split_once('=')) {
        match key.trim() {
            "q" => {
                weight = value
                    .parse::<f32>()
                    .ok()
                    .map(|q| (q.clamp(0.0, 1.0) * 1000.0) as u32)?
            }
            "as" => kind = Some(value),
            "g" => group = value,
            "v" => version = value,
            _ => {}
        }
    }
    let shape = match (kind, group, version) {
        (None, ..) => Shape::Object,
        (Some("Table"), "meta.k8s.io", "v1") => Shape::Table,
        (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), "meta.k8s.io", "v1") => {
            Shape::Metadata
        }
        (Some("APIGroupDiscoveryList"), "apidiscovery.k8s.io", "v2") => Shape::Discovery,
        _ => return None,
    };
    let wanted = Wanted {
        shape,
        format,
        of_list: kind == Some("PartialObjectMetadataList"),
    };
    (weight > 0).then_some((weight, wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<(Shape, Format)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, text.parse().unwrap());
        accept(&headers).ok().map(|w| (w.shape, w.format))
    }

    #[test]
    fn what_clients_send() {
        use Format::*;
        use Shape::*;
        for (text, wanted) in [
            (
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((Table, Json)),
            ),
            (
                "application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
                Some((Object, Json)),
            ),
            (
                "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
                Some((Metadata, Json)),
            ),
            (
                "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json",
                Some((Discovery, Json)),
            ),
            (
                "application/json;q=0.1,application/yaml",
                Some((Object, Yaml)),
            ),
            ("application/json;stream=watch", Some((Object, Json))),
            ("*/*", Some((Object, Json))),
            ("", Some((Object, Json))),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
        ] {
            assert_eq!(of(text), wanted, "{text}");
        }
    }
}
