//! The life of one process, pure: what may be asked of it when, and what it becomes.
//!
//! ```text
//!  container:  Creating ─▶ Created ─▶ Starting ─▶ Running ◀─▶ Pausing/Paused/Resuming
//!  exec:          Added ─────────────▶ Starting ─▶ Running
//!  every one:  … ─▶ Stopped ─▶ Deleting ─▶ (gone)
//! ```
//!
//! The states that end in -ing have a runtime program in flight; a request that is only too early
//! is answered [`Verdict::Later`] and asked again when that program has ended.

use rrun_task_api::Status;
use rrun_task_api::pb::task_types::Status as Shown;

/// How a process ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exited {
    /// Exit code; 128 + signal where a signal ended it.
    pub code: u32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// Nanoseconds since the epoch.
    pub at: u64,
}

/// Where in its life a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The runtime creates the container.
    Creating,
    /// An exec that is known but was not started.
    Added,
    /// A container whose init waits to be started.
    Created,
    /// The runtime starts it.
    Starting,
    /// It runs.
    Running,
    /// The runtime freezes it.
    Pausing,
    /// Frozen.
    Paused,
    /// The runtime thaws it.
    Resuming,
    /// Ended.
    Stopped,
    /// The runtime removes what is left.
    Deleting,
}

/// What can be asked of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Start it.
    Start,
    /// Freeze it (containers).
    Pause,
    /// Thaw it (containers).
    Resume,
    /// Send it a signal.
    Kill,
    /// Add an exec to it (containers).
    Exec,
    /// Change its limits (containers).
    Update,
    /// Write a checkpoint (containers).
    Checkpoint,
    /// Remove it.
    Delete,
}

/// The answer to an [`Ask`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Do it; the phase has moved on.
    Go,
    /// Ask again when the program in flight has ended.
    Later,
    /// No.
    Refused(Status),
}

/// One process: its phase, and its end once that is known.
#[derive(Clone, Debug)]
pub struct Life {
    phase: Phase,
    exit: Option<Exited>,
    is_exec: bool,
    /// Phase to go back to when the program in flight fails.
    before: Phase,
}

impl Life {
    /// A container that is being created.
    pub fn container() -> Self {
        Self {
            phase: Phase::Creating,
            exit: None,
            is_exec: false,
            before: Phase::Creating,
        }
    }

    /// An exec that was added.
    pub fn exec() -> Self {
        Self {
            phase: Phase::Added,
            exit: None,
            is_exec: true,
            before: Phase::Added,
        }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// How it ended, once that may be told: not while the runtime still starts it, so that the
    /// answer to the start comes first.
    pub fn exit(&self) -> Option<Exited> {
        match self.phase {
            Phase::Creating | Phase::Starting => None,
            _ => self.exit,
        }
    }

    /// Whether the process itself has ended, told or not.
    pub fn has_ended(&self) -> bool {
        self.exit.is_some()
    }

    /// How the Task API names the phase.
    pub fn shown(&self) -> Shown {
        match self.phase {
            Phase::Creating | Phase::Added | Phase::Created | Phase::Starting => Shown::Created,
            Phase::Running | Phase::Resuming => Shown::Running,
            Phase::Pausing => Shown::Pausing,
            Phase::Paused => Shown::Paused,
            Phase::Stopped | Phase::Deleting => Shown::Stopped,
        }
    }

    /// Asks for something. On [`Verdict::Go`] the phase is the one of the work in flight.
    pub fn ask(&mut self, ask: Ask) -> Verdict {
        use Phase::{
            Added, Created, Creating, Deleting, Paused, Pausing, Resuming, Running, Starting,
            Stopped,
        };
        let next = match (ask, self.phase) {
            (_, Creating | Starting | Pausing | Resuming) if ask != Ask::Kill => {
                return Verdict::Later;
            }
            (Ask::Kill, Creating | Starting) | (Ask::Delete, Deleting) => return Verdict::Later,
            (Ask::Start, Added | Created) => Starting,
            (Ask::Pause, Running) if !self.is_exec => Pausing,
            (Ask::Resume, Paused) if !self.is_exec => Resuming,
            (Ask::Kill, Created | Running | Paused | Pausing | Resuming)
            | (Ask::Update, Created | Running | Paused)
            | (Ask::Checkpoint, Running | Paused)
            | (Ask::Exec, Created | Running) => self.phase,
            (Ask::Delete, Added | Created | Stopped) => Deleting,
            _ => return Verdict::Refused(self.refusal(ask)),
        };
        if next != self.phase {
            self.before = self.phase;
            self.phase = next;
        }
        Verdict::Go
    }

    /// The program in flight has ended. Returns whether an exit may be told now that could not be
    /// before.
    pub fn done(&mut self, ok: bool) -> bool {
        let held = matches!(self.phase, Phase::Creating | Phase::Starting);
        self.phase = match (self.phase, ok) {
            (Phase::Creating, _) => Phase::Created,
            (Phase::Starting | Phase::Resuming, true) => Phase::Running,
            (Phase::Pausing, true) => Phase::Paused,
            (Phase::Starting | Phase::Resuming | Phase::Pausing | Phase::Deleting, false) => {
                self.before
            }
            (phase, _) => phase,
        };
        if self.exit.is_some() && self.phase != Phase::Deleting {
            self.phase = Phase::Stopped;
        }
        held && self.exit.is_some()
    }

    /// The process has ended. Returns whether that may be told now.
    pub fn exited(&mut self, exit: Exited) -> bool {
        if self.exit.is_some() {
            return false;
        }
        self.exit = Some(exit);
        match self.phase {
            Phase::Creating | Phase::Starting => false,
            Phase::Deleting => true,
            _ => {
                self.phase = Phase::Stopped;
                true
            }
        }
    }

    fn refusal(&self, ask: Ask) -> Status {
        let what = if self.is_exec {
            "exec process"
        } else {
            "container"
        };
        let state = match self.phase {
            Phase::Added | Phase::Created => "created",
            Phase::Running => "running",
            Phase::Paused => "paused",
            Phase::Stopped => "stopped",
            Phase::Deleting => "being deleted",
            _ => "busy",
        };
        if ask == Ask::Kill && matches!(self.phase, Phase::Stopped | Phase::Deleting) {
            // containerd and Docker know this text.
            return Status::not_found("process already finished");
        }
        let verb = match ask {
            Ask::Start => "start",
            Ask::Pause => "pause",
            Ask::Resume => "resume",
            Ask::Kill => "send a signal to",
            Ask::Exec => "exec in",
            Ask::Update => "update",
            Ask::Checkpoint => "checkpoint",
            Ask::Delete => "delete",
        };
        Status::precondition(format!("cannot {verb} a {state} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Ask; 8] = [
        Ask::Start,
        Ask::Pause,
        Ask::Resume,
        Ask::Kill,
        Ask::Exec,
        Ask::Update,
        Ask::Checkpoint,
        Ask::Delete,
    ];

    fn running() -> Life {
        let mut life = Life::container();
        life.done(true);
        assert_eq!(life.ask(Ask::Start), Verdict::Go);
        life.done(true);
        life
    }

    #[test]
    fn a_whole_life() {
        let mut life = running();
        assert_eq!(life.ask(Ask::Pause), Verdict::Go);
        assert_eq!(life.shown(), Shown::Pausing);
        life.done(true);
        assert_eq!(life.shown(), Shown::Paused);
        assert_eq!(life.ask(Ask::Resume), Verdict::Go);
        life.done(true);
        assert_eq!(life.ask(Ask::Kill), Verdict::Go);
        assert!(life.exited(Exited {
            code: 137,
            signal: 9,
            at: 1
        }));
        assert_eq!(life.shown(), Shown::Stopped);
        assert_eq!(life.ask(Ask::Delete), Verdict::Go);
        assert_eq!(life.phase(), Phase::Deleting);
    }

    #[test]
    fn an_exit_is_not_told_before_the_start() {
        let mut life = Life::exec();
        assert_eq!(life.ask(Ask::Start), Verdict::Go);
        assert!(!life.exited(Exited::default()));
        assert_eq!(life.exit(), None);
        assert!(life.done(true));
        assert_eq!(life.phase(), Phase::Stopped);
        assert!(life.exit().is_some());
    }

    #[test]
    fn an_exit_is_told_once() {
        let mut life = running();
        assert!(life.exited(Exited {
            code: 1,
            ..Exited::default()
        }));
        assert!(!life.exited(Exited {
            code: 2,
            ..Exited::default()
        }));
        assert_eq!(life.exit().map(|e| e.code), Some(1));
    }

    #[test]
    fn death_while_freezing_is_stopped_not_paused() {
        let mut life = running();
        assert_eq!(life.ask(Ask::Pause), Verdict::Go);
        assert!(life.exited(Exited::default()));
        life.done(true);
        assert_eq!(life.phase(), Phase::Stopped);
    }

    #[test]
    fn a_failed_program_leaves_the_phase_before_it() {
        let mut life = running();
        life.ask(Ask::Pause);
        life.done(false);
        assert_eq!(life.phase(), Phase::Running);
        let mut exec = Life::exec();
        exec.ask(Ask::Start);
        exec.done(false);
        assert_eq!(exec.phase(), Phase::Added);
        assert_eq!(exec.ask(Ask::Delete), Verdict::Go);
    }

    #[test]
    fn while_a_program_is_in_flight_everything_but_a_kill_waits() {
        for ask in ALL {
            assert_eq!(Life::container().ask(ask), Verdict::Later, "{ask:?}");
            let mut pausing = running();
            pausing.ask(Ask::Pause);
            let expected = if ask == Ask::Kill {
                Verdict::Go
            } else {
                Verdict::Later
            };
            assert_eq!(pausing.ask(ask), expected, "{ask:?}");
        }
    }

    #[test]
    fn a_stopped_container_takes_a_delete_and_nothing_else() {
        for ask in ALL {
            let mut life = running();
            life.exited(Exited::default());
            let verdict = life.ask(ask);
            assert_eq!(
                matches!(verdict, Verdict::Go),
                ask == Ask::Delete,
                "{ask:?} {verdict:?}"
            );
        }
    }

    #[test]
    fn a_running_container_cannot_be_deleted() {
        assert!(matches!(running().ask(Ask::Delete), Verdict::Refused(_)));
    }

    #[test]
    fn killing_the_dead_says_what_containerd_knows() {
        let mut life = running();
        life.exited(Exited::default());
        let Verdict::Refused(status) = life.ask(Ask::Kill) else {
            panic!("allowed")
        };
        assert_eq!(status, Status::not_found("process already finished"));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Ask(Ask),
        Done(bool),
        Exit,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            proptest::sample::select(&ALL[..]).prop_map(Step::Ask),
            any::<bool>().prop_map(Step::Done),
            Just(Step::Exit),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        /// Whatever comes in whichever order: an end is told exactly once, and never undone.
        #[test]
        fn an_end_is_told_once_and_lasts(is_exec in any::<bool>(), steps in steps()) {
            let mut life = if is_exec { Life::exec() } else { Life::container() };
            let (mut told, mut ended) = (0, false);
            for step in steps {
                let tell = match step {
                    Step::Ask(ask) => {
                        life.ask(ask);
                        false
                    }
                    Step::Done(ok) => life.done(ok),
                    Step::Exit => {
                        ended = true;
                        life.exited(Exited::default())
                    }
                };
                told += u32::from(tell);
                let in_flight = matches!(life.phase(), Phase::Creating | Phase::Starting);
                prop_assert!(told <= 1);
                prop_assert_eq!(life.has_ended(), ended);
                if ended && !in_flight {
                    prop_assert_eq!(told, 1);
                    prop_assert_eq!(life.shown(), Shown::Stopped);
                    prop_assert!(life.exit().is_some());
                }
            }
        }
    }
}
