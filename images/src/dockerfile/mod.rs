//! Images from a Dockerfile.
//!
//! [`Store::build`] reads the file whole, fetches the images that it stands on, and then makes
//! the stages that the result needs, each instruction in order.

mod context;
mod ignore;
mod lines;
mod mounts;
mod parse;
mod prepare;
mod run;
mod state;
mod steps;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parse::{Instruction, Line};
use words::Words;

use crate::error::FileContext;
use crate::pack::Time;
use crate::{
    Compression, Error, ImageId, ProgressSink, PullOptions, Reference, RegistryOptions, Result,
    Store, files,
};

const FILE_LIMIT: u64 = 4 << 20;

/// What [`Store::build`] makes an image from.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Directory that COPY takes from.
    pub context: PathBuf,
    /// The Dockerfile; `Dockerfile` in the context where it is `None`.
    pub file: Option<PathBuf>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// Values for ARG.
    pub build_args: BTreeMap<String, String>,
    /// The stage to make; the last where it is `None`.
    pub target: Option<String>,
    /// How new layers are compressed.
    pub compression: Compression,
    /// Run every command, also those that ran before on the same layers.
    pub no_cache: bool,
    /// RUN shares the host's network; without it there is none.
    pub host_network: bool,
    /// What `RUN --mount=type=secret` may have, by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Nothing is told of the steps, nor what commands print.
    pub quiet: bool,
    /// Latest time of new files, and the image's own; for builds that can be repeated.
    pub source_date_epoch: Option<u64>,
    /// The runtime for RUN: `rrun`, or one with its command line.
    pub runtime: PathBuf,
    /// How to reach the registries of base images.
    pub registry: RegistryOptions,
}

impl BuildOptions {
    fn time(&self) -> Time {
        self.source_date_epoch.map_or(Time::Keep, Time::Clamp)
    }

    fn created(&self) -> String {
        let now = || {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            since.map_or(0, |since| since.as_secs())
        };
        crate::draft::rfc3339(self.source_date_epoch.unwrap_or_else(now))
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The bytes of a file.
    File(PathBuf),
    /// An environment variable of this process.
    Variable(String),
}

/// Why a step did not go well.
enum Failed {
    Step(String),
    Store(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<String> for Failed {
    fn from(why: String) -> Self {
        Self::Step(why)
    }
}

/// A Dockerfile with what its global arguments say.
struct Plan {
    file: String,
    stages: Vec<PlannedStage>,
    globals: BTreeMap<String, String>,
    /// The stage that is wanted.
    target: usize,
    /// Stages that it needs, itself included.
    needed: BTreeSet<usize>,
}

struct PlannedStage {
    line: usize,
    /// Variables replaced.
    image: String,
    name: Option<String>,
    lines: Vec<Line>,
}

impl Store {
    /// Builds an image from a Dockerfile and gives its id. Base images that the store lacks are
    /// pulled first.
    pub async fn build(
        &self,
        options: &BuildOptions,
        progress: Arc<dyn ProgressSink>,
    ) -> Result<ImageId> {
        let plan = Plan::read(options)?;
        for (line, image) in plan.images() {
            let mistake = |error: Error| plan.mistake(line, Failed::Store(error));
            let reference: Reference = image.parse().map_err(mistake)?;
            if self.get(&image).map_err(mistake)?.is_none() {
                let pull = PullOptions {
                    registry: options.registry.clone(),
                    ..PullOptions::default()
                };
                self.pull(&reference, &pull, Arc::clone(&progress))
                    .await
                    .map_err(mistake)?;
            }
        }
        let (store, options) = (self.clone(), options.clone());
        let built =
            tokio::task::spawn_blocking(move || steps::build(&store, &plan, &options)).await;
        built.map_err(|error| Error::Worker(format!("the build: {error}")))?
    }
}

impl Plan {
    fn read(options: &BuildOptions) -> Result<Self> {
        let path = options
            .file
            .clone()
            .unwrap_or_else(|| options.context.join("Dockerfile"));
        let bytes = files::read_limited(&path, FILE_LIMIT)?;
        if !options.context.is_dir() {
            let why = std::io::Error::from(std::io::ErrorKind::NotADirectory);
            return Err(why).at("build in", &options.context);
        }
        let file = path.display().to_string();
        Self::of_text(&file, &String::from_utf8_lossy(&bytes), options)
    }

    fn of_text(file: &str, text: &str, options: &BuildOptions) -> Result<Self> {
        let at = |line, why| Error::Dockerfile {
            file: file.to_owned(),
            line,
            why,
        };
        let lines = parse::parse(text).map_err(|mistake| at(mistake.line, mistake.why))?;
        let mut plan = Self {
            file: file.to_owned(),
            stages: Vec::new(),
            globals: BTreeMap::new(),
            target: 0,
            needed: BTreeSet::new(),
        };
        let mut known_args = BTreeSet::new();
        for line in lines {
            if let Instruction::Arg { name, .. } = &line.instruction {
                known_args.insert(name.clone());
            }
            plan.add(line, options)?;
        }
        if let Some(unused) = options
            .build_args
            .keys()
            .find(|name| !known_args.contains(*name))
        {
            return Err(at(1, format!("no ARG takes the build argument {unused}")));
        }
        plan.target = match &options.target {
            None => plan.stages.len() - 1,
            Some(target) => plan
                .find(target, plan.stages.len())
                .ok_or_else(|| at(1, format!("there is no stage {target}")))?,
        };
        plan.need(plan.target);
        Ok(plan)
    }

    fn add(&mut self, line: Line, options: &BuildOptions) -> Result<()> {
        let expand = |text: &str, globals: &BTreeMap<String, String>| {
            let expanded = Words(globals).expand(text);
            let file = self.file.clone();
            expanded.map_err(|why| Error::Dockerfile {
                file,
                line: line.number,
                why,
            })
        };
        match (&line.instruction, self.stages.last_mut()) {
            (Instruction::From { image, name }, _) => {
                let image = expand(image, &self.globals)?;
                let (number, name) = (line.number, name.clone());
                self.stages.push(PlannedStage {
                    line: number,
                    image,
                    name,
                    lines: Vec::new(),
                });
            }
            (_, Some(stage)) => stage.lines.push(line),
            (Instruction::Arg { name, default }, None) => {
                let given = options.build_args.get(name).cloned();
                let value = match (given, default) {
                    (Some(given), _) => given,
                    (None, Some(default)) => expand(default, &self.globals)?,
                    (None, None) => return Ok(()),
                };
                self.globals.insert(name.clone(), value);
            }
            // The parser lets nothing else come before FROM.
            (_, None) => {}
        }
        Ok(())
    }

    /// The stage of a name or number, among those before `end`.
    fn find(&self, name: &str, end: usize) -> Option<usize> {
        let lower = name.to_ascii_lowercase();
        let named = |stage: &PlannedStage| stage.name.as_deref() == Some(lower.as_str());
        let by_name = self.stages[..end].iter().rposition(named);
        by_name.or_else(|| name.parse().ok().filter(|&number: &usize| number < end))
    }

    fn need(&mut self, stage: usize) {
        if !self.needed.insert(stage) {
            return;
        }
        let planned = &self.stages[stage];
        let copies = planned.lines.iter().flat_map(Line::sources).cloned();
        let named = |name: &String| name.parse::<usize>().is_err();
        let from = Some(planned.image.clone()).filter(named);
        let uses: Vec<usize> = from
            .into_iter()
            .chain(copies)
            .filter_map(|n| self.find(&n, stage))
            .collect();
        for stage in uses {
            self.need(stage);
        }
    }

    /// Images of the store that the needed stages stand on or copy from, with their lines.
    fn images(&self) -> Vec<(usize, String)> {
        let mut images = Vec::new();
        for &number in &self.needed {
            let stage = &self.stages[number];
            if stage.image != "scratch" && self.base_stage(number).is_none() {
                images.push((stage.line, stage.image.clone()));
            }
            for line in &stage.lines {
                for from in line.sources() {
                    if self.find(from, number).is_none() {
                        images.push((line.number, from.clone()));
                    }
                }
            }
        }
        images
    }

    /// The earlier stage that a stage stands on; numbers name images there.
    fn base_stage(&self, number: usize) -> Option<usize> {
        let image = &self.stages[number].image;
        if image.parse::<usize>().is_ok() {
            None
        } else {
            self.find(image, number)
        }
    }

    fn mistake(&self, line: usize, failed: Failed) -> Error {
        let why = match failed {
            Failed::Step(why) => why,
            Failed::Store(error) => {
                let mut why = error.to_string();
                let mut source = std::error::Error::source(&error);
                while let Some(cause) = source {
                    why = format!("{why}: {cause}");
                    source = cause.source();
                }
                why
            }
        };
        Error::Dockerfile {
            file: self.file.clone(),
            line,
            why,
        }
    }
}

/// The default runtime: `rrun` beside this program, else on PATH.
pub fn default_runtime() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.join("rrun")));
    beside
        .filter(|path| path.is_file())
        .unwrap_or_else(|| Path::new("rrun").to_owned())
}

/// For the fuzz targets.
#[cfg(feature = "fuzzing")]
pub(crate) fn parse_text(text: &str) {
    let _ = parse::parse(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan> {
        let options = BuildOptions {
            context: "/".into(),
            file: None,
            tags: Vec::new(),
            build_args: BTreeMap::from([("V".to_owned(), "2".to_owned())]),
            target: target.map(str::to_owned),
            compression: Compression::Gzip,
            no_cache: false,
            host_network: false,
            secrets: BTreeMap::new(),
            quiet: true,
            source_date_epoch: Some(0),
            runtime: "rrun".into(),
            registry: RegistryOptions::default(),
        };
        Plan::of_text("Dockerfile", text, &options)
    }

    #[test]
    fn only_what_the_target_needs_is_made() {
        let text = "ARG V=1\nFROM base:$V AS a\nFROM other AS unused\nFROM a AS b\nFROM scratch\n\
                    COPY --from=b /x /\nCOPY --from=tools:1 /y /\n";
        let whole = plan(text, None).unwrap();
        assert_eq!(whole.needed, BTreeSet::from([0, 2, 3]));
        let images: Vec<_> = whole.images().into_iter().map(|(_, image)| image).collect();
        assert_eq!(images, ["base:2", "tools:1"]);
        assert_eq!(plan(text, Some("A")).unwrap().needed, BTreeSet::from([0]));
        assert!(plan(text, Some("c")).is_err());
        let unused = plan("FROM scratch\n", None).err().unwrap().to_string();
        assert!(
            unused.contains("no ARG takes the build argument V"),
            "{unused}"
        );
    }
}
