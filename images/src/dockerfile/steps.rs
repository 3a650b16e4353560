//! The instructions, one after the other.

use std::path::{Path, PathBuf};

use super::context::{Tree, plain};
use super::ignore::Ignore;
use super::mounts::RunFlags;
use super::parse::{Command, Instruction, Line};
use super::prepare::{self, Origin, Prepared};
use super::state::Stage;
use super::words::Words;
use super::{BuildOptions, Failed, Plan, run};
use crate::merged::Merged;
use crate::pack::Look;
use crate::store::Lease;
use crate::{Compression, ImageId, Layer, Result, Store, files};

/// Makes the stages of a plan and names the image.
pub(super) fn build(store: &Store, plan: &Plan, options: &BuildOptions) -> Result<ImageId> {
    let mut lease = Lease::new(store)?;
    let mut build = Build {
        store,
        plan,
        options,
        stages: Vec::new(),
    };
    for number in 0..=plan.target {
        let stage = if plan.needed.contains(&number) {
            Some(build.stage(number, &mut lease)?)
        } else {
            None
        };
        build.stages.push(stage);
    }
    let stage = build.stages.pop().flatten().expect("the target is needed");
    stage.draft.commit(store, &mut lease, &options.tags)
}

pub(super) struct Build<'a> {
    pub store: &'a Store,
    pub plan: &'a Plan,
    pub options: &'a BuildOptions,
    stages: Vec<Option<Stage>>,
}

impl Build<'_> {
    fn stage(&self, number: usize, lease: &mut Lease) -> Result<Stage> {
        let planned = &self.plan.stages[number];
        self.tell(&format!("FROM {}", planned.image));
        let base = self
            .base(number)
            .map_err(|failed| self.plan.mistake(planned.line, failed))?;
        let mut stage = base;
        lease.add(
            stage
                .draft
                .layers
                .iter()
                .flat_map(|(l, _)| [&l.digest, &l.chain_id]),
        )?;
        for line in &planned.lines {
            let done = self.line(&mut stage, number, line, lease);
            done.map_err(|failed| self.plan.mistake(line.number, failed))?;
        }
        Ok(stage)
    }

    pub fn tell(&self, text: &str) {
        if !self.options.quiet {
            eprintln!("{text}");
        }
    }

    fn base(&self, number: usize) -> Result<Stage, Failed> {
        let planned = &self.plan.stages[number];
        let created = self.options.created();
        if planned.image == "scratch" {
            let mut stage = Stage::scratch(&created);
            let wanted = planned.platform.clone().or(self.plan.platform.clone());
            stage.draft.platform = wanted.unwrap_or(stage.draft.platform);
            return Ok(stage);
        }
        if let Some(base) = self.plan.base_stage(number) {
            if planned.platform.is_some() {
                let why = "--platform: a stage has its platform from its own FROM";
                return Err(Failed::Step(why.to_owned()));
            }
            let base = self.stages[base]
                .as_ref()
                .expect("what a stage needs is made before it");
            return Ok(Stage::on_stage(base));
        }
        let id = self.plan.id_of(&planned.image, planned.platform.as_ref());
        let record = self.store.record(id)?;
        let (manifest, _) = self.store.manifest_of(&record)?;
        let image = self.store.inspect(id)?;
        for layer in &image.layers {
            if !self.store.has_blob(&layer.digest, layer.compressed_size) {
                let why = "its layers are kept unpacked only: pull it again with its blobs";
                return Err(Failed::Step(format!("{}: {why}", planned.image)));
            }
        }
        let media_types = manifest
            .layers
            .into_iter()
            .map(|layer| layer.media_type)
            .collect();
        Ok(Stage::on_image(&created, image, media_types))
    }

    fn line(
        &self,
        stage: &mut Stage,
        number: usize,
        line: &Line,
        lease: &mut Lease,
    ) -> Result<(), Failed> {
        let known = stage.variables();
        let words = Words(&known);
        let expand = |text: &String| words.expand(text);
        match &line.instruction {
            Instruction::Run(command, flags) => {
                return self.run(stage, number, line, (command, flags), lease);
            }
            Instruction::Copy(copy) => {
                let mut copy = copy.clone();
                copy.sources = copy.sources.iter().map(expand).collect::<Result<_, _>>()?;
                copy.urls = copy.urls.iter().map(expand).collect::<Result<_, _>>()?;
                for inline in copy.inline.iter_mut().filter(|inline| inline.expand) {
                    inline.text = words.expand(&inline.text)?;
                }
                copy.to = words.expand(&copy.to)?;
                copy.chown = copy.chown.as_ref().map(expand).transpose()?;
                return self.copy(stage, number, line, &copy, lease);
            }
            Instruction::Workdir(dir) => {
                return self.workdir(stage, line, &words.expand(dir)?, lease);
            }
            _ => {}
        }
        self.tell(&line.text);
        self.configure(stage, &line.instruction, &words)?;
        stage.record(&line.text, true);
        Ok(())
    }

    /// Instructions that change the configuration alone.
    fn configure(
        &self,
        stage: &mut Stage,
        instruction: &Instruction,
        words: &Words<'_>,
    ) -> Result<(), Failed> {
        let config = &mut stage.draft.config;
        match instruction {
            Instruction::Arg { name, default } => {
                let value = self.argument(name, default.as_deref(), words)?;
                stage.args.extend(value.map(|value| (name.clone(), value)));
            }
            Instruction::Env(pairs) => {
                for (name, value) in pairs {
                    stage.set_env(&words.expand(name)?, &words.expand(value)?);
                }
            }
            Instruction::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (words.expand(name)?, words.expand(value)?);
                    config.labels.insert(name, value);
                }
            }
            Instruction::User(user) => config.user = words.expand(user)?,
            Instruction::Expose(ports) => {
                for port in ports {
                    add_once(&mut config.exposed_ports, port_of(&words.expand(port)?)?);
                }
            }
            Instruction::Volume(paths) => {
                for path in paths {
                    add_once(&mut config.volumes, words.expand(path)?);
                }
            }
            Instruction::StopSignal(signal) => config.stop_signal = words.expand(signal)?,
            other => set_command(stage, other),
        }
        Ok(())
    }

    /// The value of ARG: what was given, else its default, else that of one before the first FROM.
    fn argument(
        &self,
        name: &str,
        default: Option<&str>,
        words: &Words<'_>,
    ) -> Result<Option<String>, Failed> {
        let given = self.options.build_args.get(name).cloned();
        let default = default.map(|text| words.expand(text)).transpose()?;
        let global = || self.plan.globals.get(name).cloned();
        Ok(given.or(default).or_else(global))
    }

    pub fn push(
        &self,
        stage: &mut Stage,
        lease: &mut Lease,
        layer: Layer,
        text: &str,
    ) -> Result<(), Failed> {
        stage
            .draft
            .push(self.store, lease, layer, self.options.compression)?;
        stage.record(text, false);
        Ok(())
    }

    fn run(
        &self,
        stage: &mut Stage,
        number: usize,
        line: &Line,
        (command, flags): (&Command, &RunFlags),
        lease: &mut Lease,
    ) -> Result<(), Failed> {
        let args = stage.command(command);
        let env = stage.run_env();
        if stage.draft.layers.is_empty() {
            return Err(Failed::Step(
                "RUN needs files to run: nothing was copied so far".to_owned(),
            ));
        }
        let host_network = flags.host_network.unwrap_or(self.options.host_network);
        if host_network && !self.options.host_network {
            let why = "--network=host: the build was not given the host's network";
            return Err(Failed::Step(why.to_owned()));
        }
        self.tell(&line.text);
        let mut prepare = |dir: &Path| self.prepare(stage, number, flags, dir);
        let job = run::Job {
            stage,
            args: &args,
            env: &env,
            host_network,
            prepare: &mut prepare,
        };
        let (layer, cached) = run::run(self.store, job, self.options, lease)?;
        if cached {
            self.tell("  as before");
        }
        self.push(stage, lease, layer, &line.text)
    }

    fn prepare(
        &self,
        stage: &Stage,
        number: usize,
        flags: &RunFlags,
        dir: &Path,
    ) -> Result<Prepared, Failed> {
        let known = stage.variables();
        let words = Words(&known);
        let mut prepared = Prepared::default();
        for mount in &flags.mounts {
            let mut mount = mount.clone();
            mount.target = words.expand(&mount.target)?;
            let to = if mount.target.is_empty() {
                PathBuf::new()
            } else {
                prepare::target(stage.workdir(), &mount.target)?
            };
            let origin = |from: Option<&String>, flat: &Path| {
                let content = from.map(|from| self.chain_of(from, number)).transpose()?;
                let tree = self.tree(from, number, flat)?;
                Ok(Origin { tree, content })
            };
            prepared.add(self.store, self.options, &mount, to, dir, origin)?;
        }
        Ok(prepared)
    }

    /// What names the files of a stage or image.
    fn chain_of(&self, from: &str, number: usize) -> Result<String, Failed> {
        let layers = self.layers_of(from, number)?;
        Ok(layers
            .last()
            .map_or_else(String::new, |top| top.chain_id.to_string()))
    }

    fn workdir(
        &self,
        stage: &mut Stage,
        line: &Line,
        dir: &str,
        lease: &mut Lease,
    ) -> Result<(), Failed> {
        self.tell(&line.text);
        let path = plain(stage.workdir(), dir);
        stage.draft.config.working_dir = path.to_string_lossy().into_owned();
        let merged = Merged::open(self.store, &stage.draft.layers())?;
        let real = merged
            .real(&path)
            .map_err(|error| format!("{}: {error}", path.display()))?;
        if merged.is_directory(&real) {
            stage.record(&line.text, true);
            return Ok(());
        }
        let look = self.look(None, None);
        let layer = self.store.pack(lease, self.compression(), look, |packer| {
            merged.pack_parents(&real, true, (0, 0), packer)
        })?;
        self.push(stage, lease, layer, &line.text)
    }

    pub fn compression(&self) -> Compression {
        self.options.compression
    }

    pub fn look(&self, owner: Option<(u32, u32)>, mode: Option<u32>) -> Look {
        let owner = Some(owner.unwrap_or((0, 0)));
        Look {
            owner,
            mode,
            time: self.options.time(),
            overlay: false,
        }
    }

    /// What COPY and bind mounts take from.
    pub fn tree(&self, from: Option<&String>, number: usize, flat: &Path) -> Result<Tree, Failed> {
        let Some(from) = from else {
            let root = self.options.context.clone();
            let ignore = self.ignore()?;
            return Ok(Tree { root, ignore });
        };
        self.store
            .merge_into(&self.layers_of(from, number)?, flat)?;
        Ok(Tree {
            root: flat.to_owned(),
            ignore: Ignore::default(),
        })
    }

    /// `<Dockerfile>.dockerignore` beside the Dockerfile, else the context's `.dockerignore`.
    fn ignore(&self) -> Result<Ignore> {
        let own = self.options.file.as_ref().map(|file| {
            let mut name = file.as_os_str().to_owned();
            name.push(".dockerignore");
            PathBuf::from(name)
        });
        let context = Some(self.options.context.join(".dockerignore"));
        let path = [own, context].into_iter().flatten().find(|p| p.exists());
        let text = match path {
            Some(path) => files::read_limited(&path, 1 << 20)?,
            None => Vec::new(),
        };
        Ok(Ignore::parse(&String::from_utf8_lossy(&text)))
    }

    fn layers_of(&self, from: &str, number: usize) -> Result<Vec<Layer>> {
        Ok(match self.plan.find(from, number) {
            Some(stage) => self.stages[stage]
                .as_ref()
                .expect("what a stage needs is made before it")
                .draft
                .layers(),
            None => self.store.inspect(self.plan.id_of(from, None))?.layers,
        })
    }
}

fn add_once(list: &mut Vec<String>, item: String) {
    if !list.contains(&item) {
        list.push(item);
    }
}

/// With its protocol. Ports may be ranges.
fn port_of(text: &str) -> Result<String, Failed> {
    let number = text.split('/').next().unwrap_or_default();
    let is_port = number.split('-').all(|n| n.parse::<u16>().is_ok());
    match (is_port, text.contains('/')) {
        (true, true) => Ok(text.to_owned()),
        (true, false) => Ok(format!("{text}/tcp")),
        (false, _) => Err(Failed::Step(format!("{text} is no port"))),
    }
}

/// What a container runs, and how it is asked whether it is well.
fn set_command(stage: &mut Stage, instruction: &Instruction) {
    match instruction {
        Instruction::Entrypoint(command) => {
            stage.draft.config.entrypoint = stage.command(command);
            // The base image's arguments were for its own entry point.
            if !stage.cmd_set {
                stage.draft.config.cmd.clear();
            }
        }
        Instruction::Cmd(command) => {
            stage.draft.config.cmd = stage.command(command);
            stage.cmd_set = true;
        }
        Instruction::Shell(shell) => {
            stage.shell.clone_from(shell);
            let extra = &mut stage.draft.extra;
            extra.insert("Shell".to_owned(), shell.clone().into());
        }
        Instruction::Healthcheck(check) => {
            let extra = &mut stage.draft.extra;
            extra.insert("Healthcheck".to_owned(), check.clone());
        }
        _ => {}
    }
}
