//! Who the first process is: names and numbers against the image's passwd(5) and group(5).

use rrun_cri_api::v1::{LinuxContainerSecurityContext, SupplementalGroupsPolicy};

use crate::error::{Error, Result};

/// The resolved user of a container's first process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
}

/// The two files of the image; an absent one reads as empty.
#[derive(Clone, Debug, Default)]
pub struct UserFiles {
    /// `/etc/passwd`.
    pub passwd: String,
    /// `/etc/group`.
    pub group: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
}

impl UserFiles {
    fn accounts(&self) -> impl Iterator<Item = Account<'_>> {
        self.passwd.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(Account { name, uid, gid })
        })
    }

    fn groups(&self) -> impl Iterator<Item = (&str, u32, &str)> {
        self.group.lines().filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let gid = fields.nth(1)?.parse().ok()?;
            Some((name, gid, fields.next().unwrap_or_default()))
        })
    }
}

/// Resolves what the security context asks for, else what the image says.
pub fn resolve(
    context: &LinuxContainerSecurityContext,
    image_user: &str,
    files: &UserFiles,
) -> Result<User> {
    let named = if !context.run_as_username.is_empty() {
        context.run_as_username.clone()
    } else if let Some(uid) = &context.run_as_user {
        uid.value.to_string()
    } else if context.run_as_group.is_some() {
        let why = "linux.security_context: run_as_group needs run_as_user or run_as_username";
        return Err(Error::invalid(why));
    } else {
        image_user.to_owned()
    };
    let (name, group) = match named.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (named.as_str(), None),
    };
    let (uid, mut gid, account) = user(name, files)?;
    if let Some(group) = group {
        gid = group_id(group, files)?;
    }
    if let Some(group) = &context.run_as_group {
        gid = id("run_as_group", group.value)?;
    }
    let mut groups = vec![gid];
    if context.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge {
        groups.extend(
            files
                .groups()
                .filter(|(_, _, members)| {
                    !account.is_empty() && members.split(',').any(|m| m.trim() == account)
                })
                .map(|(_, gid, _)| gid),
        );
    }
    for group in &context.supplemental_groups {
        groups.push(id("supplemental_groups", *group)?);
    }
    let mut seen = std::collections::BTreeSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(User { uid, gid, groups })
}

/// User id, primary group and account name of what was written.
fn user(name: &str, files: &UserFiles) -> Result<(u32, u32, String)> {
    let name = if name.is_empty() { "0" } else { name };
    if let Ok(uid) = name.parse::<u32>() {
        // A number needs no account; group 0 is what every runtime then takes.
        let account = files.accounts().find(|a| a.uid == uid);
        let gid = account.as_ref().map_or(0, |a| a.gid);
        return Ok((
            uid,
            gid,
            account.map_or(String::new(), |a| a.name.to_owned()),
        ));
    }
    files
        .accounts()
        .find(|a| a.name == name)
        .map(|a| (a.uid, a.gid, a.name.to_owned()))
        .ok_or_else(|| Error::invalid(format!("user {name:?} is not in the image's /etc/passwd")))
}

fn group_id(name: &str, files: &UserFiles) -> Result<u32> {
    if let Ok(gid) = name.parse() {
        return Ok(gid);
    }
    files
        .groups()
        .find(|(group, _, _)| *group == name)
        .map(|(_, gid, _)| gid)
        .ok_or_else(|| Error::invalid(format!("group {name:?} is not in the image's /etc/group")))
}

fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .map_err(|_| Error::invalid(format!("linux.security_context.{field}: {value} is no id")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rrun_cri_api::v1::Int64Value;

    fn files() -> UserFiles {
        UserFiles {
            passwd: "root:x:0:0::/:/bin/sh\nweb:x:33:44::/:\nbroken\n".into(),
            group: "root:x:0:\nweb:x:44:\nlogs:x:50:web,root\nmore:x:51:web\n".into(),
        }
    }

    fn ask(change: impl FnOnce(&mut LinuxContainerSecurityContext), image: &str) -> Result<User> {
        let mut context = LinuxContainerSecurityContext::default();
        change(&mut context);
        resolve(&context, image, &files())
    }

    #[test]
    fn the_image_user_brings_its_groups() {
        let user = ask(|_| (), "web").unwrap();
        assert_eq!((user.uid, user.gid), (33, 44));
        assert_eq!(user.groups, [44, 50, 51]);
    }

    #[test]
    fn strict_leaves_the_image_groups_out() {
        let user = ask(
            |c| {
                c.run_as_user = Some(Int64Value { value: 33 });
                c.supplemental_groups = vec![1234, 44];
                c.set_supplemental_groups_policy(SupplementalGroupsPolicy::Strict);
            },
            "root",
        );
        assert_eq!(user.unwrap().groups, [44, 1234]);
    }

    #[test]
    fn a_number_needs_no_account() {
        let user = ask(|_| (), "7000:8000").unwrap();
        assert_eq!((user.uid, user.gid, user.groups), (7000, 8000, vec![8000]));
        assert_eq!(ask(|_| (), "7000").unwrap().gid, 0);
    }

    #[test]
    fn what_cannot_be_resolved_is_refused() {
        assert!(ask(|_| (), "nobody").is_err());
        assert!(ask(|_| (), "web:nogroup").is_err());
        assert!(ask(|c| c.run_as_group = Some(Int64Value { value: 5 }), "").is_err());
        assert!(ask(|c| c.run_as_user = Some(Int64Value { value: -1 }), "").is_err());
    }
}
