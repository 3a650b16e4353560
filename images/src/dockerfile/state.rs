//! A stage under construction.

use std::collections::BTreeMap;

use super::parse::Command;
use crate::draft::Draft;
use crate::{History, Image, ImageConfig, Platform};

/// What the instructions of a stage have made so far.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub draft: Draft,
    /// Arguments that ARG made known in this stage.
    pub args: BTreeMap<String, String>,
    pub shell: Vec<String>,
    /// CMD was set in this stage, and so survives a new ENTRYPOINT.
    pub cmd_set: bool,
}

impl Stage {
    pub fn scratch(created: &str) -> Self {
        let draft = Draft {
            config: ImageConfig::default(),
            extra: BTreeMap::new(),
            platform: Platform::host(),
            layers: Vec::new(),
            history: Vec::new(),
            created: created.to_owned(),
        };
        let shell = vec!["/bin/sh".to_owned(), "-c".to_owned()];
        Self {
            draft,
            args: BTreeMap::new(),
            shell,
            cmd_set: false,
        }
    }

    /// On an image of the store, whose layers have these media types.
    pub fn on_image(created: &str, image: Image, media_types: Vec<String>) -> Self {
        let mut stage = Self::scratch(created);
        stage.draft.config = image.config;
        stage.draft.platform = image.platform;
        stage.draft.layers = image.layers.into_iter().zip(media_types).collect();
        stage.draft.history = image.history;
        stage
    }

    /// On an earlier stage.
    pub fn on_stage(other: &Stage) -> Self {
        Self {
            args: BTreeMap::new(),
            cmd_set: false,
            ..other.clone()
        }
    }

    pub fn workdir(&self) -> &str {
        if self.draft.config.working_dir.is_empty() {
            "/"
        } else {
            &self.draft.config.working_dir
        }
    }

    /// What `$name` may be: the environment, and arguments that it does not hide.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let mut known = self.args.clone();
        let pairs = self
            .draft
            .config
            .env
            .iter()
            .filter_map(|pair| pair.split_once('='));
        known.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        known
    }

    /// The environment of a RUN beside the image's: its arguments.
    pub fn run_env(&self) -> Vec<String> {
        let set = |name: &str| {
            self.draft
                .config
                .env
                .iter()
                .any(|e| e.split('=').next() == Some(name))
        };
        let args = self.args.iter().filter(|(name, _)| !set(name));
        args.map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let env = &mut self.draft.config.env;
        match env
            .iter_mut()
            .find(|old| old.split('=').next() == Some(name))
        {
            Some(old) => *old = pair,
            None => env.push(pair),
        }
    }

    /// A command as the configuration has it.
    pub fn command(&self, command: &Command) -> Vec<String> {
        match command {
            Command::List(list) => list.clone(),
            Command::Shell(text) => [self.shell.as_slice(), std::slice::from_ref(text)].concat(),
        }
    }

    pub fn record(&mut self, text: &str, empty_layer: bool) {
        let created = Some(self.draft.created.clone());
        let created_by = text.to_owned();
        let comment = "rrun-image build".to_owned();
        self.draft.history.push(History {
            created,
            created_by,
            comment,
            empty_layer,
        });
    }
}
