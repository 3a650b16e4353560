//! `rrun-cri pulls`: the pulls that a running daemon has under way.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use rrun_cri_api::v1::StatusRequest;
use rrun_cri_api::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Channel;

use crate::config::{self, Flags};
use crate::pulls::Report;
use crate::trace::Endpoint;

/// Between two looks.
const PERIOD: Duration = Duration::from_millis(500);

/// What to show.
#[derive(Args)]
pub struct Command {
    /// Go on until nothing is under way any more
    #[arg(long, short)]
    follow: bool,
    /// As JSON, with each layer
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    flags: Flags,
}

/// Runs the command.
pub fn run(command: &Command) -> Result<()> {
    let socket = config::socket(&command.flags)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")?
        .block_on(async {
            let channel = Endpoint::Unix(socket.clone()).channel()?;
            let mut client = RuntimeServiceClient::new(channel);
            let asked = show(command, &mut client).await;
            asked.with_context(|| format!("ask rrun-cri at unix://{}", socket.display()))
        })
}

async fn show(command: &Command, client: &mut RuntimeServiceClient<Channel>) -> Result<()> {
    let mut output = std::io::stdout();
    let again = output.is_terminal() && !command.json;
    let mut lines = 0;
    loop {
        let pulls = ask(client).await?;
        if again && lines > 0 {
            // Up, and clear to the end of the screen.
            write!(output, "\x1b[{lines}A\x1b[J")?;
        }
        let text = if command.json {
            serde_json::to_string(&pulls)? + "\n"
        } else {
            table(&pulls, crate::id::now())
        };
        lines = text.lines().count();
        output.write_all(text.as_bytes())?;
        output.flush()?;
        if !command.follow || pulls.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn ask(client: &mut RuntimeServiceClient<Channel>) -> Result<Vec<Report>> {
    let answer = client.status(StatusRequest { verbose: true }).await;
    let answer = answer.map_err(|status| anyhow::anyhow!("{}", status.message()))?;
    let info = answer.into_inner().info;
    let text = info.get("pulls").context("it does not tell of pulls")?;
    serde_json::from_str(text).context("what it tells of pulls")
}

fn table(pulls: &[Report], now: i64) -> String {
    let width = pulls
        .iter()
        .map(|p| p.image.len())
        .max()
        .unwrap_or(0)
        .max(5);
    let mut text = format!(
        "{:width$}  LAYERS   BYTES                   TIME\n",
        "IMAGE"
    );
    for pull in pulls {
        let layers = format!("{}/{}", pull.done(), pull.layers.len());
        let bytes = format!("{} of {}", mebibytes(pull.bytes), mebibytes(pull.size));
        let seconds = (now - pull.started_at).max(0) / 1_000_000_000;
        text += &format!(
            "{:width$}  {layers:7}  {bytes:22}  {seconds} s\n",
            pull.image
        );
    }
    text
}

fn mebibytes(bytes: u64) -> String {
    let tenths = bytes * 10 / (1 << 20);
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_pull() {
        let pull = Report {
            image: "docker.io/library/debian:12".into(),
            bytes: 3 << 19,
            size: 48 << 20,
            ..Default::default()
        };
        let text = table(&[pull], 2_500_000_000);
        let wanted = "docker.io/library/debian:12  0/0      1.5 MiB of 48.0 MiB     2 s\n";
        assert!(text.ends_with(wanted), "{text}");
        assert_eq!(table(&[], 0).lines().count(), 1);
    }
}
