use anyhow::{Result, bail};
use rrun_images::{CheckReport, Store};

use super::registry::RegistryArgs;
use crate::progress::ProgressArgs;
use crate::text::say;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  rrun-image check
  rrun-image check --repair")]
pub struct Check {
    /// Unpack broken layers again, and fetch what is broken itself
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

impl Check {
    pub fn run(&self, store: &Store) -> Result<()> {
        let report = store.check()?;
        self.tell(&report)?;
        if report.problems.is_empty() {
            return Ok(());
        }
        if !self.repair {
            bail!(
                "the store is damaged: {} problems; --repair mends them",
                report.problems.len()
            );
        }
        let options = self.registry.options()?;
        let sink = self.progress.sink("repairing");
        let failed = super::block_on(store.repair(&report, &options, sink))?;
        for error in &failed {
            eprintln!(
                "rrun-image: repair: {:#}",
                anyhow::Error::msg(error.to_string())
            );
        }
        let left = store.check()?.problems.len();
        if left > 0 {
            bail!("{left} problems are left");
        }
        say(format!("repaired {} problems", report.problems.len()));
        Ok(())
    }

    fn tell(&self, report: &CheckReport) -> Result<()> {
        if self.progress.json() {
            say(serde_json::to_string_pretty(report)?);
            return Ok(());
        }
        for problem in &report.problems {
            let kind = if problem.layer { "layer" } else { "blob" };
            say(format!("{kind} {}: {}", problem.digest, problem.why));
        }
        let CheckReport {
            blobs,
            layers,
            layers_counted,
            ..
        } = report;
        say(format!(
            "read {blobs} blobs, compared {layers} layers with their blobs, counted {layers_counted}"
        ));
        Ok(())
    }
}
