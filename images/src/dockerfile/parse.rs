//! The Dockerfile as a list of instructions. Nothing is done here.
//!
//! What is not supported is refused with its line; nothing is skipped in silence.

use super::lines::{Document, Logical, logical_lines};
use super::mounts::{self, RunFlags, RunMount};
use super::words;
use crate::Digest;

/// A mistake in a Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    pub line: usize,
    pub why: String,
}

/// A command line, as a list or for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    List(Vec<String>),
    Shell(String),
}

/// COPY and ADD.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Copy {
    pub sources: Vec<String>,
    pub to: String,
    /// A stage or an image; the build context where it is `None`.
    pub from: Option<String>,
    pub chown: Option<String>,
    pub chmod: Option<u32>,
    /// ADD: an archive would be unpacked.
    pub add: bool,
    /// The layer does not depend on those below.
    pub link: bool,
    /// ADD: what is fetched.
    pub urls: Vec<String>,
    /// The digest of the one URL.
    pub checksum: Option<Digest>,
    /// Here-documents, copied as files.
    pub inline: Vec<Inline>,
}

/// A here-document of COPY.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inline {
    /// The word that ends it, which is its name in a directory.
    pub name: String,
    pub text: String,
    /// Variables are replaced.
    pub expand: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Instruction {
    From {
        image: String,
        name: Option<String>,
        /// Variables stay in.
        platform: Option<String>,
    },
    Arg {
        name: String,
        default: Option<String>,
    },
    Env(Vec<(String, String)>),
    Label(Vec<(String, String)>),
    Workdir(String),
    User(String),
    Expose(Vec<String>),
    Volume(Vec<String>),
    StopSignal(String),
    Entrypoint(Command),
    Cmd(Command),
    Shell(Vec<String>),
    /// As Docker's configuration has it.
    Healthcheck(serde_json::Value),
    Run(Command, RunFlags),
    Copy(Copy),
}

/// An instruction with the line that it starts on, and its text for the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub number: usize,
    pub text: String,
    pub instruction: Instruction,
}

impl Line {
    /// The stages and images that it takes files from.
    pub fn sources(&self) -> Vec<&String> {
        match &self.instruction {
            Instruction::Copy(copy) => copy.from.iter().collect(),
            Instruction::Run(_, flags) => flags.mounts.iter().filter_map(RunMount::from).collect(),
            _ => Vec::new(),
        }
    }
}

/// Reads a Dockerfile. Variables stay in; they are known when the line is reached.
pub(super) fn parse(text: &str) -> Result<Vec<Line>, Mistake> {
    let mut lines = Vec::new();
    for Logical {
        number,
        text,
        documents,
    } in logical_lines(text)?
    {
        let bad = |why: String| Mistake { line: number, why };
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((&text, ""));
        let keyword = keyword.to_ascii_uppercase();
        let instruction = instruction(&keyword, rest.trim(), documents).map_err(bad)?;
        let first_from = lines
            .iter()
            .any(|l: &Line| matches!(l.instruction, Instruction::From { .. }));
        let allowed = matches!(
            instruction,
            Instruction::From { .. } | Instruction::Arg { .. }
        );
        if !first_from && !allowed {
            return Err(bad(format!("{keyword} comes before FROM")));
        }
        lines.push(Line {
            number,
            text,
            instruction,
        });
    }
    if lines
        .iter()
        .any(|line| matches!(line.instruction, Instruction::From { .. }))
    {
        return Ok(lines);
    }
    Err(Mistake {
        line: 1,
        why: "there is no FROM".to_owned(),
    })
}

/// RUN: a here-document that stands alone is the script; else the shell reads the documents after
/// the command.
fn run(rest: &str, documents: &[Document]) -> Result<Instruction, String> {
    let (flags, text) = mounts::flags(rest)?;
    if text.is_empty() {
        return Err("RUN needs a command".to_owned());
    }
    let command = match documents {
        [] => command(text),
        [only] if only.start.alone => {
            if only.text.starts_with("#!") {
                let why = "a here-document with #! is not supported: leave that line out";
                return Err(why.to_owned());
            }
            Command::Shell(only.text.clone())
        }
        more => {
            let whole = more.iter().map(|document| document.whole.as_str());
            Command::Shell(format!("{text}\n{}", whole.collect::<String>()))
        }
    };
    Ok(Instruction::Run(command, flags))
}

fn instruction(keyword: &str, rest: &str, documents: Vec<Document>) -> Result<Instruction, String> {
    if rest.is_empty() {
        return Err(format!("{keyword} needs an argument"));
    }
    Ok(match keyword {
        "FROM" => from(rest)?,
        "ARG" => arg(rest)?,
        "ENV" => Instruction::Env(pairs(rest)?),
        "LABEL" => Instruction::Label(pairs(rest)?),
        "WORKDIR" => Instruction::Workdir(words::unquote(rest)),
        "USER" => Instruction::User(rest.to_owned()),
        "EXPOSE" => Instruction::Expose(words::split(rest)?),
        "VOLUME" => Instruction::Volume(list_or_words(rest)?),
        "STOPSIGNAL" => Instruction::StopSignal(rest.to_owned()),
        "ENTRYPOINT" => Instruction::Entrypoint(command(rest)),
        "CMD" => Instruction::Cmd(command(rest)),
        "SHELL" => match command(rest) {
            Command::List(list) if !list.is_empty() => Instruction::Shell(list),
            _ => return Err("SHELL takes a JSON array of strings".to_owned()),
        },
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck(rest)?),
        "RUN" => run(rest, &documents)?,
        "COPY" => Instruction::Copy(copy(rest, false, documents)?),
        "ADD" => Instruction::Copy(copy(rest, true, documents)?),
        other => return Err(format!("{other} is not supported")),
    })
}

fn from(rest: &str) -> Result<Instruction, String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (flags, words): (Vec<&str>, Vec<&str>) = words.iter().partition(|w| w.starts_with("--"));
    let mut platform = None;
    for flag in flags {
        match flag.strip_prefix("--platform=") {
            Some(value) if !value.is_empty() => platform = Some(value.to_owned()),
            _ => return Err(format!("{flag} is not supported")),
        }
    }
    let (image, name) = match words.as_slice() {
        [image] => (*image, None),
        [image, r#as, name] if r#as.eq_ignore_ascii_case("as") => (*image, Some(*name)),
        _ => return Err("write FROM image, or FROM image AS name".to_owned()),
    };
    Ok(Instruction::From {
        image: image.to_owned(),
        name: name.map(str::to_ascii_lowercase),
        platform,
    })
}

fn arg(rest: &str) -> Result<Instruction, String> {
    let (name, default) = match rest.split_once('=') {
        Some((name, default)) => (name, Some(words::unquote(default))),
        None => (rest, None),
    };
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(good) {
        return Err("write ARG name, or ARG name=value".to_owned());
    }
    Ok(Instruction::Arg {
        name: name.to_owned(),
        default,
    })
}

/// `a=b c="d e"`, or the old `a b c`.
fn pairs(rest: &str) -> Result<Vec<(String, String)>, String> {
    let first = rest.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{first}: write name=value"))?;
        return Ok(vec![(name.to_owned(), words::unquote(value.trim()))]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("{word}: write name=value")),
    };
    words::split(rest)?.into_iter().map(pair).collect()
}

fn command(rest: &str) -> Command {
    // Docker takes what is no good JSON array of strings for the shell's.
    match serde_json::from_str(rest) {
        Ok(list) if rest.starts_with('[') => Command::List(list),
        _ => Command::Shell(rest.to_owned()),
    }
}

fn list_or_words(rest: &str) -> Result<Vec<String>, String> {
    match command(rest) {
        Command::List(list) => Ok(list),
        Command::Shell(text) => words::split(&text),
    }
}

fn copy(rest: &str, add: bool, documents: Vec<Document>) -> Result<Copy, String> {
    let mut copy = Copy {
        add,
        ..Copy::default()
    };
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        match flag.split_once('=') {
            Some(("from", from)) if !add => copy.from = Some(from.to_owned()),
            None if flag == "link" => copy.link = true,
            Some(("link", value)) => {
                copy.link = value.parse().map_err(|_| "--link: write true or false")?;
            }
            Some(("checksum", digest)) if add => {
                let digest = digest.parse();
                copy.checksum = Some(digest.map_err(|_| "--checksum: write sha256:…")?);
            }
            Some(("chown", owner)) => copy.chown = Some(owner.to_owned()),
            Some(("chmod", mode)) => {
                let mode = u32::from_str_radix(mode, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777);
                copy.chmod = Some(mode.ok_or("--chmod: write an octal mode")?);
            }
            _ => return Err(format!("--{flag} is not supported")),
        }
    }
    let mut words = list_or_words(rest)?;
    copy.to = words.pop().ok_or("write sources and a destination")?;
    words.retain(|word| !word.starts_with("<<"));
    let is_url = |word: &String| {
        let lower = word.to_ascii_lowercase();
        lower.starts_with("http://") || lower.starts_with("https://")
    };
    let git = |source: &&String| {
        let url = source.contains("://") && source.to_ascii_lowercase().ends_with(".git");
        url || source.starts_with("git@") || source.starts_with("git://")
    };
    if add && let Some(source) = words.iter().find(git) {
        let why = "ADD of a git repository is not supported: clone it into the context";
        return Err(format!("{source}: {why}"));
    }
    (copy.urls, copy.sources) = words.into_iter().partition(|word| add && is_url(word));
    copy.inline = documents
        .into_iter()
        .map(|document| Inline {
            name: document.start.end,
            text: document.text,
            expand: !document.start.quoted,
        })
        .collect();
    if copy.sources.is_empty() && copy.inline.is_empty() && copy.urls.is_empty() {
        return Err("write sources and a destination".to_owned());
    }
    if copy.checksum.is_some() && (copy.urls.len(), copy.sources.len()) != (1, 0) {
        return Err("--checksum: is for the digest of one URL".to_owned());
    }
    Ok(copy)
}

/// Durations become nanoseconds.
fn healthcheck(rest: &str) -> Result<serde_json::Value, String> {
    if rest.eq_ignore_ascii_case("none") {
        return Ok(serde_json::json!({"Test": ["NONE"]}));
    }
    let mut check = serde_json::Map::new();
    let mut rest = rest;
    while let Some(flag) = rest.strip_prefix("--") {
        let (flag, after) = flag.split_once(char::is_whitespace).unwrap_or((flag, ""));
        rest = after.trim_start();
        let (name, value) = flag
            .split_once('=')
            .ok_or_else(|| format!("--{flag} needs a value"))?;
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            "start-interval" => "StartInterval",
            "retries" => {
                let retries: u64 = value.parse().map_err(|_| "--retries: write a number")?;
                check.insert("Retries".to_owned(), retries.into());
                continue;
            }
            _ => return Err(format!("--{name} is not supported")),
        };
        check.insert(key.to_owned(), duration(value)?.into());
    }
    let Some(text) = rest
        .strip_prefix("CMD")
        .map(str::trim_start)
        .filter(|t| !t.is_empty())
    else {
        return Err("write HEALTHCHECK NONE, or HEALTHCHECK CMD command".to_owned());
    };
    let test = match command(text) {
        Command::List(list) => [vec!["CMD".to_owned()], list].concat(),
        Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
    };
    check.insert("Test".to_owned(), test.into());
    Ok(check.into())
}

/// `1m30s`, `500ms` in nanoseconds.
fn duration(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is no duration: write as in 1m30s");
    let mut rest = text;
    let mut sum: u64 = 0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .filter(|&n| n > 0)
            .ok_or_else(bad)?;
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |n| digits + n);
        let unit: u64 = match &rest[digits..unit_end] {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        sum = number
            .checked_mul(unit)
            .and_then(|n| sum.checked_add(n))
            .ok_or_else(bad)?;
        rest = &rest[unit_end..];
    }
    if text.is_empty() { Err(bad()) } else { Ok(sum) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Instruction, Mistake> {
        parse(&format!("FROM scratch\n{text}")).map(|mut lines| lines.pop().unwrap().instruction)
    }

    #[test]
    fn lines_continue_and_comments_go() {
        let text = "# syntax=docker/dockerfile:1\nARG V=1\nFROM a:$V AS Base\n\nRUN one && \\\n# no\n  two\n";
        let lines = parse(text).unwrap();
        assert_eq!(lines.len(), 3);
        let Instruction::From { image, name, .. } = &lines[1].instruction else {
            panic!()
        };
        assert_eq!((image.as_str(), name.as_deref()), ("a:$V", Some("base")));
        assert_eq!(
            (lines[2].number, lines[2].text.as_str()),
            (5, "RUN one &&   two")
        );
    }

    #[test]
    fn instructions_are_read() {
        let list = |words: &[&str]| Command::List(words.iter().map(ToString::to_string).collect());
        assert_eq!(
            one(r#"CMD ["a","b c"]"#).unwrap(),
            Instruction::Cmd(list(&["a", "b c"]))
        );
        assert_eq!(
            one("CMD [a]").unwrap(),
            Instruction::Cmd(Command::Shell("[a]".into()))
        );
        let env = one(r#"ENV A=1 B="2 3" C=4\ 5"#).unwrap();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        let want = vec![pair("A", "1"), pair("B", "2 3"), pair("C", "4 5")];
        assert_eq!(env, Instruction::Env(want));
        assert_eq!(
            one("ENV OLD way of it").unwrap(),
            Instruction::Env(vec![pair("OLD", "way of it")])
        );
        let Instruction::Copy(copy) =
            one("COPY --from=b --chown=1:2 --chmod=0755 x y /z/").unwrap()
        else {
            panic!()
        };
        assert_eq!((copy.from.as_deref(), copy.chmod), (Some("b"), Some(0o755)));
        assert_eq!((copy.sources.len(), copy.to.as_str()), (2, "/z/"));
        let check = one("HEALTHCHECK --interval=1m30s --retries=2 CMD true").unwrap();
        let want = serde_json::json!({"Interval": 90_000_000_000u64, "Retries": 2, "Test": ["CMD-SHELL", "true"]});
        assert_eq!(check, Instruction::Healthcheck(want));
    }

    #[test]
    fn flags_and_urls_of_adds_are_read() {
        let from = parse("FROM --platform=$BUILDPLATFORM a AS b")
            .unwrap()
            .remove(0);
        let Instruction::From {
            image, platform, ..
        } = from.instruction
        else {
            panic!()
        };
        assert_eq!(
            (image.as_str(), platform.as_deref()),
            ("a", Some("$BUILDPLATFORM"))
        );
        let digest = Digest::of(b"");
        let line = format!("ADD --link --checksum={digest} HTTPS://x.example/y /d/");
        let Instruction::Copy(copy) = one(&line).unwrap() else {
            panic!()
        };
        assert_eq!(copy.urls, ["HTTPS://x.example/y"]);
        assert!(copy.link && copy.sources.is_empty());
        assert_eq!(copy.checksum, Some(digest));
        let Instruction::Copy(copy) = one("COPY --link=false http://x /d/").unwrap() else {
            panic!()
        };
        assert!(copy.urls.is_empty() && !copy.link, "COPY fetches nothing");
    }

    #[test]
    fn here_documents_of_run_are_scripts() {
        let shell = |text: &str| Instruction::Run(Command::Shell(text.into()), RunFlags::default());
        assert_eq!(
            one("RUN <<EOF\n# kept\necho $A\n\n  two\\\nEOF").unwrap(),
            shell("# kept\necho $A\n\n  two\\\n")
        );
        assert_eq!(one("RUN <<-E\n\techo a\n\tE").unwrap(), shell("echo a\n"));
        assert_eq!(
            one("RUN cat <<'A' > /f && true\nx\nA").unwrap(),
            shell("cat <<'A' > /f && true\nx\nA\n")
        );
        assert!(one("RUN <<EOF\necho a").unwrap_err().why.contains("EOF"));
        assert!(
            one("RUN <<EOF\n#!/bin/python\nEOF")
                .unwrap_err()
                .why
                .contains("#!")
        );
        let after = parse("FROM scratch\nRUN <<E\nFROM x\nE\nCMD a").unwrap();
        assert_eq!((after.len(), after[2].number), (3, 5));
    }

    #[test]
    fn here_documents_of_copy_are_files() {
        let Instruction::Copy(copy) =
            one("COPY --chmod=0755 a <<-ONE <<'TWO' /d/\n\tx $V\n\tONE\ny\nTWO").unwrap()
        else {
            panic!()
        };
        assert_eq!(
            (copy.sources, copy.to.as_str()),
            (vec!["a".to_owned()], "/d/")
        );
        let inline = |name: &str, text: &str, expand| Inline {
            name: name.into(),
            text: text.into(),
            expand,
        };
        assert_eq!(
            copy.inline,
            [inline("ONE", "x $V\n", true), inline("TWO", "y\n", false)]
        );
        let run = one("RUN --mount=type=tmpfs,target=/t <<E\ntrue\nE").unwrap();
        let Instruction::Run(Command::Shell(script), flags) = run else {
            panic!()
        };
        assert_eq!((script.as_str(), flags.mounts.len()), ("true\n", 1));
    }

    #[test]
    fn what_is_not_supported_is_refused_with_its_line() {
        let bad = [
            "ONBUILD RUN x",
            "MAINTAINER x",
            "RUN --mount=type=cache x",
            "RUN --mount=type=ssh x",
            "RUN --security=insecure x",
            "RUN --mount=type=tmpfs,target=/t",
            "ADD --checksum=md5:1 https://x/y /",
            "ADD --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 a /",
            "COPY --checksum=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 a /",
            "COPY --parents a b",
            "ADD git@x:y.git /",
            "COPY x",
            "ENV A",
            "RUN cat <<EOF",
            "COPY <<A /b",
            "SHELL sh",
            "HEALTHCHECK true",
            "COPY --link=perhaps a b",
            "COPY --chmod=u+x a b",
            "WORKDIR",
            "ARG a-b",
            "ENV A='x",
        ];
        for text in bad {
            assert_eq!(one(text).unwrap_err().line, 2, "{text}");
        }
        assert_eq!(parse("RUN x").unwrap_err().line, 1);
        assert_eq!(parse("# only\n").unwrap_err().why, "there is no FROM");
        assert_eq!(parse("FROM --platform= a").unwrap_err().line, 1);
        assert_eq!(parse("FROM --network=x a").unwrap_err().line, 1);
    }
}
