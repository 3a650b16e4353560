//! The plan as a person would read it: each step with what it is for, the system
//! calls and the objects; and, after, the time that each took.

mod create;
mod exec;
pub mod trace;
mod words;

pub use create::steps as of_create;
pub use exec::steps as of_exec;
pub use trace::Key;

use serde::Serialize;
use std::fmt::Write;
use std::time::Duration;

/// Who does a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The command itself.
    Runtime,
    /// The process that becomes the user's program.
    Init,
}

/// One step, before it is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Place in the order, from 1. Steps of the two processes overlap in time.
    pub number: usize,
    /// Who does it.
    pub by: By,
    /// In a few words.
    pub what: String,
    /// What it is for.
    pub why: &'static str,
    /// System calls.
    pub call: &'static str,
    /// What they are about.
    pub objects: Vec<String>,
    #[serde(skip)]
    key: Key,
}

/// What is said of a step whatever the container.
#[derive(Debug)]
struct Kind {
    key: Key,
    by: By,
    what: &'static str,
    why: &'static str,
    call: &'static str,
}

/// A list of steps in the making.
#[derive(Debug, Default)]
struct List(Vec<Step>);

impl List {
    fn add(&mut self, kind: &Kind, objects: impl IntoIterator<Item = String>) {
        self.add_as(kind, kind.what.to_owned(), objects);
    }

    /// A step that is none without objects.
    fn add_any(&mut self, kind: &Kind, objects: impl IntoIterator<Item = String>) {
        let mut objects = objects.into_iter().peekable();
        if objects.peek().is_some() {
            self.add(kind, objects);
        }
    }

    /// A step that names what it is about.
    fn add_as(&mut self, kind: &Kind, what: String, objects: impl IntoIterator<Item = String>) {
        self.0.push(Step {
            number: self.0.len() + 1,
            by: kind.by,
            what,
            why: kind.why,
            call: kind.call,
            objects: objects.into_iter().collect(),
            key: kind.key,
        });
    }
}

/// The steps as text.
pub fn text(title: &str, steps: &[Step]) -> String {
    let mut text = format!(
        "{title}: {} steps. [runtime] is this command, [init] the process that becomes the program.\n",
        steps.len()
    );
    for step in steps {
        let by = by(step.by);
        let _ = writeln!(text, "{:>3}. {by} {}", step.number, step.what);
        let _ = writeln!(text, "       for   {}", step.why);
        let _ = writeln!(text, "       call  {}", step.call);
        for object in &step.objects {
            let _ = writeln!(text, "       on    {object}");
        }
    }
    text
}

fn by(by: By) -> &'static str {
    match by {
        By::Runtime => "[runtime]",
        By::Init => "[init]   ",
    }
}

/// The time that a step took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Time {
    /// The step.
    pub number: usize,
    /// Microseconds in it, waiting for the other process left out.
    pub microseconds: f64,
}

/// The time of each step that was executed.
pub fn times(steps: &[Step], spans: &[(Key, Duration)]) -> Vec<Time> {
    steps
        .iter()
        .filter_map(|step| {
            let mut own = spans.iter().filter(|(key, _)| *key == step.key).peekable();
            own.peek()?;
            let all: Duration = own.map(|(_, time)| *time).sum();
            Some(Time {
                number: step.number,
                microseconds: (all.as_secs_f64() * 1e9).round() / 1e3,
            })
        })
        .collect()
}

/// Times as text.
pub fn times_text(steps: &[Step], times: &[Time]) -> String {
    let mut text = "Time in each step:\n".to_owned();
    for time in times {
        if let Some(step) = steps.iter().find(|s| s.number == time.number) {
            let _ = writeln!(
                text,
                "{:>10.3} ms  {:>3}. {} {}",
                time.microseconds / 1e3,
                step.number,
                by(step.by),
                step.what
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_belong_to_their_steps() {
        let mut list = List::default();
        let kind = |key, by, what| Kind {
            key,
            by,
            what,
            why: "for a test",
            call: "none(2)",
        };
        list.add(&kind(Key::Clone, By::Runtime, "a"), []);
        list.add(&kind(Key::Mount(3), By::Init, "b"), ["x".to_owned()]);
        list.add(&kind(Key::Exec, By::Init, "c"), []);
        let millis = Duration::from_millis;
        let spans = [
            (Key::Mount(3), millis(2)),
            (Key::Clone, millis(1)),
            (Key::Mount(4), millis(9)),
        ];
        let times = times(&list.0, &spans);
        let found: Vec<_> = times.iter().map(|t| (t.number, t.microseconds)).collect();
        assert_eq!(found, [(1, 1000.0), (2, 2000.0)]);
        let text = text("x", &list.0);
        assert!(
            text.contains("  2. [init]    b\n") && text.contains("on    x"),
            "{text}"
        );
        assert!(times_text(&list.0, &times).contains("2.000 ms    2. [init]    b"));
    }
}
