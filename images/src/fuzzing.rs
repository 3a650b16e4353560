//! What the fuzz targets of `images/fuzz` call: each takes any bytes, must not panic, and holds
//! its own rules. Built with the feature `fuzzing` only.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::identity::Privilege;
use crate::manifest::{Config, Document};
use crate::unpack::{Limits, Mode};
use crate::{Reference, chunked, dockerfile, registry, trust, unpack};

/// A name that parses is written and read again as the same.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(reference) = text.parse::<Reference>() {
        let written = reference.to_string();
        assert_eq!(
            written.parse::<Reference>().unwrap(),
            reference,
            "{written}"
        );
        assert!(!reference.repository().contains(".."));
    }
}

/// A manifest or index, and a configuration after a line break.
pub fn document(data: &[u8]) {
    let cut = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    let (first, second) = data.split_at(cut);
    let config = Config::parse("fuzz", second);
    if let Ok(Document::Manifest(manifest)) = Document::parse("fuzz", first)
        && let Ok(config) = config
    {
        let layers = manifest.layers_with(&config);
        assert!(layers.len() <= manifest.layers.len());
    }
}

/// An archive into a directory. Whatever it holds, nothing beside the directory changes.
pub fn tar(data: &[u8]) {
    let base = Path::new("/dev/shm");
    let base = if base.is_dir() {
        base.to_owned()
    } else {
        std::env::temp_dir()
    };
    let outside = base.join(format!("rrun-fuzz-{}", crate::files::unique_name()));
    let fs_dir = outside.join("fs");
    fs::create_dir_all(&fs_dir).unwrap();
    fs::write(outside.join("canary"), "alive").unwrap();
    let limits = Limits {
        layer_bytes: 1 << 20,
        layer_entries: 1000,
        ratio: 100,
    };
    let privilege = if data.len() % 2 == 1 {
        Privilege::User
    } else {
        Privilege::Root
    };
    if let Ok(written) = unpack::write_archive(&fs_dir, Mode::overlay(privilege), &limits, data) {
        let _ = written.finish(&[]);
    }
    assert_eq!(fs::read(outside.join("canary")).unwrap(), b"alive");
    assert_eq!(
        fs::read_dir(&outside).unwrap().count(),
        2,
        "{}",
        outside.display()
    );
    crate::files::remove_all(&outside).unwrap();
}

/// A compressed stream, in pieces of different sizes.
pub fn stream(data: &[u8]) {
    let (size, data) = data
        .split_first()
        .map_or((1, data), |(n, rest)| (usize::from(*n) + 1, rest));
    let one = unpack::inflate_all(&[data], 8 << 20);
    let pieces: Vec<&[u8]> = data.chunks(size).collect();
    let many = unpack::inflate_all(&pieces, 8 << 20);
    if let (Ok(one), Ok(many)) = (&one, &many) {
        assert!(one == many, "the pieces' sizes matter");
    }
    assert_eq!(one.is_ok(), many.is_ok());
}

/// `WWW-Authenticate`.
pub fn challenge(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        registry::parse_challenges(text);
    }
}

/// Keys and certificates.
pub fn certificate(data: &[u8]) {
    trust::parse_der(data);
}

pub fn dockerfile(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        dockerfile::parse_text(text);
    }
}

/// A table of contents of zstd:chunked or eStargz.
pub fn table(data: &[u8]) {
    chunked::parse_table(data);
}
