//! What form of an answer the client wants.

use super::super::status::{Result, Status};

/// Form of objects in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As they are.
    Object,
    /// `meta.k8s.io/v1` Table, made for people.
    Table,
    /// Metadata only, one object.
    Partial,
    /// Metadata only, a list.
    PartialList,
}

/// Chooses the first form of an `Accept` header that is served.
pub(crate) fn form(accept: &str) -> Result<Form> {
    let mut any = accept.trim().is_empty();
    for part in accept.split(',') {
        let mut params = part.split(';').map(str::trim);
        let media = params.next().unwrap_or_default();
        let json = matches!(media, "application/json" | "*/*" | "application/*");
        any |= json || media == "application/yaml";
        if !json {
            continue;
        }
        let (mut kind, mut version) = ("", "v1");
        for p in params {
            match p.split_once('=') {
                Some(("as", v)) => kind = v,
                Some(("v", v)) => version = v,
                _ => {}
            }
        }
        match (kind, version) {
            ("", _) => return Ok(Form::Object),
            ("Table", "v1") => return Ok(Form::Table),
            ("PartialObjectMetadata", "v1") => return Ok(Form::Partial),
            ("PartialObjectMetadataList", "v1") => return Ok(Form::PartialList),
            _ => {}
        }
    }
    if any {
        Ok(Form::Object)
    } else {
        Err(not_acceptable())
    }
}

fn not_acceptable() -> Status {
    Status::new(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, \
         application/json;as=Table;v=v1;g=meta.k8s.io, \
         application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_that_is_served() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
        assert_eq!(form(kubectl).unwrap(), Form::Table);
        let beta = "application/json;as=Table;v=v1beta1;g=meta.k8s.io, application/json";
        assert_eq!(form(beta).unwrap(), Form::Object);
        assert_eq!(
            form("application/vnd.kubernetes.protobuf,application/json").unwrap(),
            Form::Object
        );
        assert_eq!(form("*/*").unwrap(), Form::Object);
        assert!(form("application/vnd.kubernetes.protobuf").is_err());
    }
}
