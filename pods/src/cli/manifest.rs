//! Manifests: YAML or JSON files of one or more documents, directories of them, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

/// A document of a manifest.
#[derive(Debug)]
pub struct Document {
    /// Where it is from, for errors: `web.yaml, document 2`.
    pub origin: String,
    /// The object.
    pub object: Value,
}

/// Reads every document of the given files; `-` is standard input. Lists are taken apart.
pub fn read(files: &[PathBuf], recursive: bool) -> anyhow::Result<Vec<Document>> {
    let mut all = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("standard input")?;
            parse("standard input", &text, &mut all)?;
            continue;
        }
        for path in expand(file, recursive)? {
            let text =
                std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            parse(&path.display().to_string(), &text, &mut all)?;
        }
    }
    if all.is_empty() {
        bail!("no objects in what -f names");
    }
    Ok(all)
}

/// A file itself, or the manifests of a directory in the order of their names.
fn expand(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let meta = std::fs::metadata(path).with_context(|| format!("-f {}", path.display()))?;
    if !meta.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()
        .with_context(|| path.display().to_string())?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                files.extend(expand(&entry, true)?);
            }
        } else if entry
            .extension()
            .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            files.push(entry);
        }
    }
    Ok(files)
}

fn parse(origin: &str, text: &str, all: &mut Vec<Document>) -> anyhow::Result<()> {
    let mut options = serde_saphyr::Options::default();
    // 0777 is octal in YAML 1.1, which every Kubernetes manifest is written in.
    options.legacy_octal_numbers = true;
    let documents = split(text);
    let many = documents.len() > 1;
    for (index, (line, part)) in documents.iter().enumerate() {
        let origin = if many {
            format!("{origin}, document {} (line {line})", index + 1)
        } else {
            origin.to_owned()
        };
        let object: Option<Value> = serde_saphyr::from_str_with_options(part, options.clone())
            .map_err(|e| anyhow::anyhow!("{e}"))
            .with_context(|| origin.clone())?;
        let Some(object) = object.filter(|o| !o.is_null()) else {
            continue;
        };
        if !object.is_object() {
            bail!("{origin}: is not an object");
        }
        let is_list = object["kind"].as_str().is_some_and(|k| k.ends_with("List"));
        match object["items"].as_array().filter(|_| is_list) {
            Some(items) => {
                let items = items.iter().enumerate();
                all.extend(items.map(|(at, object)| Document {
                    origin: format!("{origin}, items[{at}]"),
                    object: object.clone(),
                }));
            }
            None => all.push(Document { origin, object }),
        }
    }
    Ok(())
}

/// Documents between lines of `---`, each with the line that it begins on. Empty ones are left out.
fn split(text: &str) -> Vec<(usize, String)> {
    let mut parts = vec![(1, String::new())];
    for (index, line) in text.lines().enumerate() {
        let marker = line == "---" || line.starts_with("--- ");
        if marker {
            parts.push((index + 2, String::new()));
            let rest = line.trim_start_matches('-').trim();
            if rest.is_empty() || rest.starts_with('#') {
                continue;
            }
        }
        let (_, part) = parts.last_mut().expect("there is a first part");
        part.push_str(line.strip_prefix("--- ").unwrap_or(line));
        part.push('\n');
    }
    let blank = |part: &str| {
        part.lines()
            .all(|l| l.trim().is_empty() || l.trim_start().starts_with('#') || l == "...")
    };
    parts.retain(|(_, part)| !blank(part));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> anyhow::Result<Vec<Document>> {
        let mut all = Vec::new();
        parse("f.yaml", text, &mut all)?;
        Ok(all)
    }

    #[test]
    fn documents_lists_and_octal_numbers() {
        let all = read_text("# first\n---\nkind: A\nmode: 0755\n---\n\n---\nkind: AList\nitems:\n- {kind: B}\n- {kind: C}\n").unwrap();
        let kinds: Vec<_> = all
            .iter()
            .map(|d| d.object["kind"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, ["A", "B", "C"]);
        assert_eq!(all[0].object["mode"], 0o755);
        assert!(all[2].origin.contains("document 2") && all[2].origin.contains("items[1]"));
    }

    #[test]
    fn a_fault_is_told_with_its_document() {
        let error = read_text("kind: A\n---\nkind: [\n").unwrap_err();
        assert!(format!("{error:#}").starts_with("f.yaml, document 2 (line 3): "));
    }
}
