//! A request's object, made to fit its type, and what is said of what did not fit.

use serde_json::Value;

use super::client::{Validation, WriteOptions};
use super::resource::Res;
use super::schema::{self, Schema};
use super::status::{Result, Status};

/// Drops what the kind does not have, or refuses it; refuses values of the wrong type.
pub(super) fn object(res: Res, object: &mut Value, options: &WriteOptions) -> Result<()> {
    let Some(id) = Schema::get().kind(res.group, res.version, res.kind) else {
        return Ok(());
    };
    let found = schema::decode(object, id);
    if let Some(fault) = found.fault {
        return Err(refused(res, &fault));
    }
    if options.validation == Validation::Strict && !found.unknown.is_empty() {
        let all: Vec<String> = found.unknown.iter().map(|p| unknown(p)).collect();
        return Err(refused(
            res,
            &format!("strict decoding error: {}", all.join(", ")),
        ));
    }
    if options.validation == Validation::Warn {
        options.warn(found.unknown.iter().map(|p| unknown(p)));
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
