//! COPY and ADD.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Failed;
use super::context::{Item, Tree, plain};
use super::ignore::Ignore;
use super::parse::{Copy, Line};
use super::state::Stage;
use super::steps::Build;
use crate::merged::Merged;
use crate::pack::{LayerWriter, Look};
use crate::store::Lease;
use crate::{Image, Layer, Limits, files, unpack};

type Owner = Option<(u32, u32)>;

/// Where the files are to lie.
struct Destination {
    /// What the image has so far; nothing with `--link`.
    merged: Merged,
    /// Names from the root, links followed.
    real: Vec<Vec<u8>>,
    /// It is a directory, by its name or in the image.
    directory: bool,
    link: bool,
}

impl Destination {
    /// With `--link` the layer does not depend on those below: nothing of them is looked at.
    fn of(build: &Build<'_>, stage: &Stage, copy: &Copy) -> Result<Self, Failed> {
        let layers = if copy.link {
            Vec::new()
        } else {
            stage.draft.layers()
        };
        let merged = Merged::open(build.store, &layers)?;
        let to = plain(stage.workdir(), &copy.to);
        let real = merged
            .real(&to)
            .map_err(|error| format!("{}: {error}", to.display()))?;
        let slash = copy.to.ends_with('/')
            || matches!(copy.to.as_str(), "." | "..")
            || copy.to.ends_with("/.");
        let directory = slash || merged.is_directory(&real);
        if !directory && copy.sources.len() + copy.urls.len() + copy.inline.len() > 1 {
            let why = "the destination of several sources must end with /";
            return Err(Failed::Step(why.to_owned()));
        }
        Ok(Self {
            merged,
            real,
            directory,
            link: copy.link,
        })
    }

    fn path(&self) -> PathBuf {
        Path::new("/").join(std::ffi::OsStr::from_bytes(&self.real.join(&b'/')))
    }

    /// The directories on the way, and with `itself` the destination too. A linked layer leaves
    /// them out: who unpacks it takes those of the layers below, or makes them.
    fn pack_parents(
        &self,
        itself: bool,
        owner: Owner,
        packer: &mut LayerWriter,
    ) -> std::io::Result<()> {
        if !self.link {
            let owner = owner.unwrap_or((0, 0));
            return self.merged.pack_parents(&self.real, itself, owner, packer);
        }
        match owner.filter(|_| itself && !self.real.is_empty()) {
            Some(owner) => {
                let path = self.path();
                let inner = path.strip_prefix("/").unwrap_or(&path);
                packer.made_directory(inner, 0o755, owner)
            }
            None => Ok(()),
        }
    }
}

impl Build<'_> {
    /// One layer for the files, and one before it for each archive that is unpacked.
    pub fn copy(
        &self,
        stage: &mut Stage,
        number: usize,
        line: &Line,
        copy: &Copy,
        lease: &mut Lease,
    ) -> Result<(), Failed> {
        self.tell(&line.text);
        let scratch = |lease: &mut Lease| {
            let path = self.store.build_dir().join(lease.reserve()?);
            files::Scratch::new(path)
        };
        let destination = Destination::of(self, stage, copy)?;
        let (at, directory) = (destination.path(), destination.directory);
        let flat = scratch(lease)?;
        let tree = self.tree(copy.from.as_ref(), number, flat.path())?;
        let inline = scratch(lease)?;
        let dockerfile = Path::new(&self.plan.file);
        let documents = Tree::of_documents(inline.path(), dockerfile, &copy.inline)?;
        let names: Vec<String> = copy.inline.iter().map(|i| i.name.clone()).collect();
        let written = documents.items(&names, &at, directory)?;
        let fetched = scratch(lease)?;
        let mut items = tree.items(&copy.sources, &at, directory)?;
        let archives: Vec<Item> = items
            .extract_if(.., |item| copy.add && item.is_archive())
            .collect();
        items.extend(self.fetch(copy, fetched.path(), &at, directory)?);
        let owner = self.owner(stage, copy)?;
        for archive in &archives {
            let layer = self.add_archive(&destination, archive, owner, lease)?;
            self.push(stage, lease, layer, &line.text)?;
        }
        if items.is_empty() && written.is_empty() {
            return Ok(());
        }
        let itself = directory || items.iter().any(Item::is_directory);
        let look = self.look(owner, copy.chmod);
        let layer = self.store.pack(lease, self.compression(), look, |packer| {
            destination.pack_parents(itself, owner, packer)?;
            tree.pack(&items, packer)?;
            documents.pack(&written, packer)
        })?;
        self.push(stage, lease, layer, &line.text)
    }

    /// The user and group of `--chown`.
    fn owner(&self, stage: &Stage, copy: &Copy) -> Result<Owner, Failed> {
        let Some(chown) = &copy.chown else {
            return Ok(None);
        };
        let ids = self.store.user_of(&Image::of_draft(&stage.draft), chown)?;
        let same = !chown.contains(':') && chown.parse::<u32>().is_ok();
        Ok(Some((ids.uid, if same { ids.uid } else { ids.gid })))
    }

    /// ADD of an archive: what is in it, with the owners and modes that it gives, as a layer.
    fn add_archive(
        &self,
        destination: &Destination,
        archive: &Item,
        owner: Owner,
        lease: &mut Lease,
    ) -> Result<Layer, Failed> {
        let scratch = files::Scratch::new(self.store.build_dir().join(lease.reserve()?))?;
        let mode = unpack::Mode::overlay(self.store.privilege());
        let limits = Limits::default();
        let named = |why: String| Failed::Step(format!("{}: {why}", archive.name()));
        unpack::archive(archive.path(), scratch.path(), mode, &limits)
            .map_err(|error| named(error.to_string()))?;
        let tree = Tree {
            root: scratch.path().to_owned(),
            ignore: Ignore::default(),
        };
        let items = [Item::directory(scratch.path(), &destination.path())];
        let look = Look {
            owner,
            ..self.look(None, None)
        };
        Ok(self.store.pack(lease, self.compression(), look, |packer| {
            destination.pack_parents(true, owner, packer)?;
            tree.pack(&items, packer)
        })?)
    }
}
