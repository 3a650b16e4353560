//! `User` of an image (`name`, `uid`, `name:group` …) as numbers, by the image's own
//! `/etc/passwd` and `/etc/group`.

use serde::Serialize;

use crate::{Error, Image, Result, Store};

const FILE_LIMIT: u64 = 16 << 20;

/// Who a container's process is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Groups that list the user, without the primary one.
    pub additional_gids: Vec<u32>,
    /// Home directory, `/` where passwd has none.
    pub home: String,
}

impl Store {
    /// Resolves a user string in an image; the empty one is the image's own `User`.
    pub fn user(&self, image: &str, user: &str) -> Result<UserIds> {
        let found = self.inspect(image)?;
        self.user_of(&found, user)
    }

    pub(crate) fn user_of(&self, found: &Image, user: &str) -> Result<UserIds> {
        let user = if user.is_empty() {
            found.config.user.as_str()
        } else {
            user
        };
        let passwd = self
            .read_file(found, "etc/passwd", FILE_LIMIT)?
            .unwrap_or_default();
        let group = self
            .read_file(found, "etc/group", FILE_LIMIT)?
            .unwrap_or_default();
        resolve(
            user,
            &String::from_utf8_lossy(&passwd),
            &String::from_utf8_lossy(&group),
        )
    }
}

/// Resolves a user string by the text of passwd and group (Docker's rules: a name must be there,
/// a number need not).
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<UserIds> {
    let bad = |why: String| Error::document(format!("user {user:?}"), why);
    let (name, wanted_group) = match user.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let uid: u32 = fields.get(2)?.parse().ok()?;
        let gid: u32 = fields.get(3)?.parse().ok()?;
        let matches = fields[0] == name || number == Some(uid);
        matches.then(|| {
            (
                fields[0].to_owned(),
                uid,
                gid,
                fields.get(5).unwrap_or(&"").to_string(),
            )
        })
    });
    let (login, uid, gid, home) = match (entry, number) {
        (Some(entry), _) => entry,
        (None, Some(uid)) => (String::new(), uid, 0, String::new()),
        (None, None) => {
            return Err(bad(
                "there is no such user in the image's /etc/passwd".into()
            ));
        }
    };
    let groups = || {
        group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let gid: u32 = fields.get(2)?.parse().ok()?;
            Some((
                fields[0].to_owned(),
                gid,
                fields.get(3).unwrap_or(&"").to_string(),
            ))
        })
    };
    let home = if home.is_empty() {
        "/".to_owned()
    } else {
        home
    };
    if let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) {
        let found = groups()
            .find(|(name, _, _)| name == wanted)
            .map(|(_, gid, _)| gid);
        let gid = found.or_else(|| wanted.parse().ok());
        let gid =
            gid.ok_or_else(|| bad("there is no such group in the image's /etc/group".into()))?;
        return Ok(UserIds {
            uid,
            gid,
            additional_gids: Vec::new(),
            home,
        });
    }
    let listed = |members: &str| !login.is_empty() && members.split(',').any(|m| m == login);
    let additional = groups().filter(|(_, id, members)| *id != gid && listed(members));
    let additional_gids = additional.map(|(_, id, _)| id).collect();
    Ok(UserIds {
        uid,
        gid,
        additional_gids,
        home,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:w:/var/www:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:50:root,web\n";

    #[test]
    fn users_are_found_by_name_and_number() {
        let ids = |user| resolve(user, PASSWD, GROUP).unwrap();
        assert_eq!((ids("").uid, ids("").home), (0, "/root".to_owned()));
        assert_eq!(ids("web").additional_gids, [50]);
        assert_eq!((ids("33").gid, ids("33").additional_gids.len()), (34, 1));
        assert_eq!(
            (ids("web:log").gid, ids("web:log").additional_gids.len()),
            (50, 0)
        );
        assert_eq!((ids("1000").uid, ids("1000").gid), (1000, 0));
        assert_eq!((ids("1000:2000").gid, ids("0:0").uid), (2000, 0));
        assert!(resolve("nobody", PASSWD, GROUP).is_err());
        assert!(resolve("web:none", PASSWD, GROUP).is_err());
    }
}
