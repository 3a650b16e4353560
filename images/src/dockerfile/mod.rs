//! Images from a Dockerfile.
//!
//! [`Store::build`] reads the file whole, fetches the images that it stands on, and then makes
//! the stages that the result needs, each instruction in order.

mod context;
mod copy;
mod ignore;
mod lines;
mod mounts;
mod parse;
mod prepare;
mod run;
mod state;
mod steps;
mod url;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parse::{Instruction, Line};
use words::Words;

use crate::error::FileContext;
use crate::pack::Time;
use crate::{
    Compression, Error, Image, ImageId, Platform, ProgressSink, PullOptions, Reference,
    RegistryOptions, Result, Store, files,
};

const FILE_LIMIT: u64 = 4 << 20;

/// What [`Store::build`] makes an image from.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// Directory that COPY takes from.
    pub context: PathBuf,
    /// The Dockerfile; `Dockerfile` in the context where it is `None`.
    pub file: Option<PathBuf>,
    /// The platform of base images, and of the image; this machine's where it is `None`.
    pub platform: Option<Platform>,
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
    /// The platform that was asked for.
    platform: Option<Platform>,
    /// Ids of the images that stages stand on or copy from.
    bases: BTreeMap<Base, ImageId>,
    /// The stage that is wanted.
    target: usize,
    /// Stages that it needs, itself included.
    needed: BTreeSet<usize>,
}

/// A name and the platform that it was asked for with, as text.
type Base = (String, Option<String>);

struct PlannedStage {
    line: usize,
    /// Variables replaced.
    image: String,
    /// What FROM says.
    platform: Option<Platform>,
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
        let mut plan = Plan::read(options)?;
        for (line, image, platform) in plan.images() {
            let id = self.base(&image, platform.clone(), options, &progress);
            let mistake = |error: Error| plan.mistake(line, Failed::Store(error));
            let id = id.await.map_err(mistake)?;
            plan.bases.insert(Plan::key(&image, platform.as_ref()), id);
        }
        let (store, options) = (self.clone(), options.clone());
        let built =
            tokio::task::spawn_blocking(move || steps::build(&store, &plan, &options)).await;
        built.map_err(|error| Error::Worker(format!("the build: {error}")))?
    }
}

impl Store {
    /// An image that is there with the platform that is wanted, else pulled. Its name may lead to
    /// that of another platform before the build is over; the id does not.
    async fn base(
        &self,
        image: &str,
        platform: Option<Platform>,
        options: &BuildOptions,
        progress: &Arc<dyn ProgressSink>,
    ) -> Result<ImageId> {
        let reference: Reference = image.parse()?;
        let fits = |there: &Image| match &platform {
            Some(wanted) => wanted.score(&there.platform).is_some(),
            None => true,
        };
        if let Some(there) = self.get(image)?.filter(fits) {
            return Ok(there.id);
        }
        let pull = PullOptions {
            registry: options.registry.clone(),
            platform,
            ..PullOptions::default()
        };
        self.pull(&reference, &pull, Arc::clone(progress)).await
    }
}

impl Plan {
    fn key(image: &str, platform: Option<&Platform>) -> Base {
        (image.to_owned(), platform.map(ToString::to_string))
    }

    /// The id of an image that a stage stands on, with the platform that its FROM gives, or
    /// copies from.
    fn id_of<'a>(&'a self, image: &'a str, platform: Option<&Platform>) -> &'a str {
        let key = Self::key(image, platform.or(self.platform.as_ref()));
        self.bases.get(&key).map_or(image, ImageId::as_str)
    }

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
            globals: platform_args(options.platform.as_ref()),
            platform: options.platform.clone(),
            bases: BTreeMap::new(),
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
            (
                Instruction::From {
                    image,
                    name,
                    platform,
                },
                _,
            ) => {
                let image = expand(image, &self.globals)?;
                let platform = match platform {
                    Some(text) => Some(expand(text, &self.globals)?.parse()?),
                    None => None,
                };
                let (number, name) = (line.number, name.clone());
                self.stages.push(PlannedStage {
                    line: number,
                    image,
                    platform,
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

    /// Images of the store that the needed stages stand on or copy from, with their lines and the
    /// platform that is wanted of them.
    fn images(&self) -> Vec<(usize, String, Option<Platform>)> {
        let mut images = Vec::new();
        for &number in &self.needed {
            let stage = &self.stages[number];
            if stage.image != "scratch" && self.base_stage(number).is_none() {
                let platform = stage.platform.clone().or(self.platform.clone());
                images.push((stage.line, stage.image.clone(), platform));
            }
            for line in &stage.lines {
                for from in line.sources() {
                    if self.find(from, number).is_none() {
                        images.push((line.number, from.clone(), self.platform.clone()));
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

/// The arguments that every Dockerfile has: where it is built, and what for.
fn platform_args(target: Option<&Platform>) -> BTreeMap<String, String> {
    let host = Platform::host();
    let target = target.unwrap_or(&host);
    let mut args = BTreeMap::new();
    for (kind, platform) in [("BUILD", &host), ("TARGET", target)] {
        let mut add = |name: &str, value: String| args.insert(format!("{kind}{name}"), value);
        add("PLATFORM", platform.to_string());
        add("OS", platform.os.clone());
        add("ARCH", platform.architecture.clone());
        add("VARIANT", platform.variant.clone());
    }
    args
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
            platform: None,
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
        let images: Vec<_> = whole
            .images()
            .into_iter()
            .map(|(_, image, _)| image)
            .collect();
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
