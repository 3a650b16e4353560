//! Names of entries, made safe before anything is done with them.

/// A path has at most this many bytes (PATH_MAX): a longer one could not be opened.
const PATH_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Components without `.`, `..`, empty ones and NUL. No component at all is the root.
pub(super) type Components = Vec<Vec<u8>>;

/// What an entry's name asks for (image-spec layer.md, Whiteouts).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Make this.
    Path(Components),
    /// Hide this from the layers below.
    Whiteout(Components),
    /// Hide all that the layers below have in this directory.
    Opaque(Components),
    /// AUFS' own records.
    Ignored,
}

/// Reads the name of an entry. A leading slash is taken off, as all peers do.
pub(super) fn target(path: &[u8]) -> Result<Target, String> {
    let mut components = components(path)?;
    let Some(name) = components.last() else {
        return Ok(Target::Path(components));
    };
    if name == OPAQUE {
        components.pop();
        return Ok(Target::Opaque(components));
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return match components.iter().find(|name| name.starts_with(WHITEOUT)) {
            Some(_) if is_aufs(&components) => Ok(Target::Ignored),
            Some(_) => Err("it lies below a whiteout".into()),
            None => Ok(Target::Path(components)),
        };
    };
    if hidden.starts_with(WHITEOUT) {
        return Ok(Target::Ignored);
    }
    if matches!(hidden, b"" | b"." | b"..") {
        return Err("it hides a directory from within, or nothing".into());
    }
    let hidden = hidden.to_vec();
    components.pop();
    components.push(hidden);
    Ok(Target::Whiteout(components))
}

fn is_aufs(components: &Components) -> bool {
    components.iter().any(|name| name.starts_with(b".wh..wh."))
}

/// The target of a hard link: relative to the root of the layer, and below it.
pub(super) fn link_target(link: &[u8]) -> Result<Components, String> {
    if link.starts_with(b"/") {
        return Err("it is a hard link with an absolute target".into());
    }
    let components = components(link).map_err(|why| format!("its hard link target: {why}"))?;
    if components.is_empty() {
        return Err("it is a hard link to nothing".into());
    }
    Ok(components)
}

fn components(path: &[u8]) -> Result<Components, String> {
    if path.is_empty() {
        return Err("an entry without a name".into());
    }
    if path.len() > PATH_LIMIT {
        return Err(format!("its path has over {PATH_LIMIT} bytes"));
    }
    if path.contains(&0) {
        return Err("its path has a NUL byte".into());
    }
    let mut components = Vec::new();
    for name in path.split(|&b| b == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("its path has a .. component".into()),
            _ if name.len() > NAME_LIMIT => {
                return Err(format!("its path has a name of over {NAME_LIMIT} bytes"));
            }
            _ => components.push(name.to_vec()),
        }
    }
    Ok(components)
}

/// For messages and for the record of what was made.
pub(super) fn join(components: &[Vec<u8>]) -> Vec<u8> {
    components.join(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Components {
        path.split('/')
            .filter(|p| !p.is_empty())
            .map(|p| p.as_bytes().to_vec())
            .collect()
    }

    #[test]
    fn names_say_what_they_ask_for() {
        assert_eq!(target(b"./").unwrap(), Target::Path(vec![]));
        assert_eq!(target(b"./a//b/").unwrap(), Target::Path(parts("a/b")));
        assert_eq!(
            target(b"/etc/passwd").unwrap(),
            Target::Path(parts("etc/passwd"))
        );
        assert_eq!(target(b"a/.wh.b").unwrap(), Target::Whiteout(parts("a/b")));
        assert_eq!(
            target(b"a/.wh..wh..opq").unwrap(),
            Target::Opaque(parts("a"))
        );
        assert_eq!(target(b".wh..wh..opq").unwrap(), Target::Opaque(vec![]));
        assert_eq!(target(b".wh..wh.plnk/1.2").unwrap(), Target::Ignored);
        assert_eq!(target(b".wh..wh.aufs").unwrap(), Target::Ignored);
        assert!(target(b"a..b/...").is_ok());
    }

    #[test]
    fn names_that_leave_the_layer_are_refused() {
        let long_name = vec![b'a'; 256];
        let long_path = b"a/".repeat(2100);
        let bad: [&[u8]; 9] = [
            b"..",
            b"a/../../b",
            b"../etc",
            b"",
            b"a\0b",
            b".wh...",
            b"a/.wh..",
            &long_name,
            &long_path,
        ];
        for path in bad {
            assert!(target(path).is_err(), "{:?}", String::from_utf8_lossy(path));
        }
        assert!(target(&[b'a'; 255]).is_ok());
        assert!(link_target(b"/etc/passwd").is_err());
        assert!(link_target(b"../x").is_err());
        assert!(link_target(b"bin/busybox").is_ok());
    }
}
