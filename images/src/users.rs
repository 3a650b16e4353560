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

/// A line of passwd.
struct Login<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// A line of group.
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Lines that are malformed are left out, as libc leaves them out.
fn logins(passwd: &str) -> impl Iterator<Item = Login<'_>> {
    passwd.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Login {
            name: fields[0],
            uid: fields.get(2)?.parse().ok()?,
            gid: fields.get(3)?.parse().ok()?,
            home: fields.get(5).unwrap_or(&""),
        })
    })
}

fn groups(group: &str) -> impl Iterator<Item = Group<'_>> {
    group.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        Some(Group {
            name: fields[0],
            gid: fields.get(2)?.parse().ok()?,
            members: fields.get(3).unwrap_or(&""),
        })
    })
}

/// Resolves a user string by the text of passwd and group (Docker's rules: a name must be there,
/// a number need not).
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<UserIds> {
    let missing = |what: &str, file: &str| {
        let why = format!("there is no such {what} in the image's /etc/{file}");
        Error::document(format!("user {user:?}"), why)
    };
    let (name, wanted) = user.split_once(':').unwrap_or((user, ""));
    let name = if name.is_empty() { "0" } else { name };
    let number: Option<u32> = name.parse().ok();
    let unlisted = |uid| Login {
        name: "",
        uid,
        gid: 0,
        home: "",
    };
    let login = logins(passwd)
        .find(|login| login.name == name || number == Some(login.uid))
        .or_else(|| number.map(unlisted))
        .ok_or_else(|| missing("user", "passwd"))?;
    let mut ids = UserIds {
        uid: login.uid,
        gid: login.gid,
        additional_gids: Vec::new(),
        home: if login.home.is_empty() {
            "/"
        } else {
            login.home
        }
        .to_owned(),
    };
    if wanted.is_empty() {
        let listed = |g: &Group<'_>| {
            let member = |m| !login.name.is_empty() && m == login.name;
            g.gid != login.gid && g.members.split(',').any(member)
        };
        ids.additional_gids = groups(group).filter(listed).map(|g| g.gid).collect();
    } else {
        let known = groups(group).find(|g| g.name == wanted).map(|g| g.gid);
        let gid = known.or_else(|| wanted.parse().ok());
        ids.gid = gid.ok_or_else(|| missing("group", "group"))?;
    }
    Ok(ids)
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
