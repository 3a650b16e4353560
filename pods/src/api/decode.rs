//! A request's object, made to fit its type, and what is said of what did not fit.

use serde_json::Value;

use super::client::{Validation, WriteOptions};
use super::resource::Res;
use super::schema::{self, Schema};
use super::status::{Result, Status};
use super::{custom, kinds};

/// Drops what the kind does not have, or refuses it; refuses values of the wrong type.
pub(super) fn object(res: Res, object: &mut Value, options: &WriteOptions) -> Result<()> {
    if let Some(custom) = res.custom {
        options.warn(custom.warning().into_iter().map(str::to_owned));
        let unknown = custom.prune(object).map_err(|fault| refused(res, &fault))?;
        return tell(res, &unknown, options);
    }
    let Some(id) = Schema::get().kind(res.group, res.version, res.kind) else {
        return Ok(());
    };
    let found = schema::decode(object, id);
    if let Some(fault) = found.fault {
        return Err(refused(res, &fault));
    }
    if *res == kinds::CUSTOM_RESOURCE_DEFINITION && custom::has_cel(object) {
        let text =
            "spec.versions[*].schema: x-kubernetes-validations rules are kept but not evaluated";
        options.warn(std::iter::once(text.to_owned()));
    }
    tell(res, &found.unknown, options)
}

/// Refuses unknown fields, or warns of them, as the request wants it.
fn tell(res: Res, fields: &[String], options: &WriteOptions) -> Result<()> {
    let all = || fields.iter().map(|p| unknown(p));
    if options.validation == Validation::Strict && !fields.is_empty() {
        let all: Vec<String> = all().collect();
        let why = format!("strict decoding error: {}", all.join(", "));
        return Err(refused(res, &why));
    }
    if options.validation == Validation::Warn {
        options.warn(all());
    }
    Ok(())
}

fn unknown(path: &str) -> String {
    format!("unknown field \"{path}\"")
}

fn refused(res: Res, why: &str) -> Status {
    let (kind, version) = (res.kind, res.api_version());
    Status::bad_request(format!(
        "{kind} in version \"{}\" cannot be handled as a {kind}: {why}",
        version.rsplit('/').next().unwrap_or_default()
    ))
}
