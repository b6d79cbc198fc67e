//! The operators of a history, and the accidents.

use std::sync::Arc;
use std::time::Duration;

use futures_channel::mpsc::UnboundedSender;
use futures_channel::oneshot;
use nix::sys::signal::{Signal, raise};

use super::chance::Chance;
use super::checks::{Call, Checks, Making, What};
use super::no_settings;
use super::system::{DEATHS, Kernel};
use crate::Error;
use crate::master::handle::{MasterCommand, MasterHandle};
use crate::master::startup::{BoxedTask, StartTask};
use crate::master::supervisor::MasterEvent;
use crate::rt::local::Local;

/// The signals that the master obeys.
pub(super) const SIGNALS: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// How long everything works before it is looked at.
const CALM_TIME: Duration = Duration::from_secs(120);

const HOOKS: [&str; 5] = ["observe", "context", "size_from", "output", "answer"];

/// Draws a main task: it works until the stop, or ends before it.
pub(super) fn main(chance: &mut Chance, checks: &Checks) -> StartTask {
    let (kind, time) = (chance.below(8), chance.millis(20_000));
    let kernel = Arc::clone(&checks.kernel);
    checks.main_obeys(kind >= 4);
    Box::new(move |rt, master| -> BoxedTask {
        if kind == 0 {
            kernel.note("the main task panics at once");
            std::panic::resume_unwind(Box::new("no main task"));
        }
        let stopping = master.stopping();
        Box::pin(async move {
            match kind {
                1 => {
                    rt.sleep(time).await;
                    Err(no_settings())
                }
                2 => {
                    rt.sleep(time).await;
                    std::panic::resume_unwind(Box::new("the main task panics"))
                }
                3 => std::future::pending().await,
                4 => Ok(()),
                _ => {
                    stopping.await;
                    rt.sleep(time / 8).await;
                    Ok(())
                }
            }
        })
    })
}

pub(super) struct Script<'a> {
    pub(super) local: &'a Local,
    pub(super) checks: &'a Arc<Checks>,
    pub(super) master: MasterHandle,
    pub(super) sender: UnboundedSender<MasterEvent>,
    pub(super) chance: Chance,
}

impl Script<'_> {
    fn kernel(&self) -> &Kernel {
        &self.checks.kernel
    }

    /// Plays until the master was asked to stop.
    pub(super) async fn play(mut self) {
        let rt = self.kernel().rt.clone();
        if self.chance.one_in(2) {
            rt.sleep(Duration::from_secs(3)).await;
        }
        for _ in 0..self.chance.below(24) {
            self.step();
            let pause = self.chance.millis(2_500);
            rt.sleep(pause).await;
        }
        if self.chance.one_in(2) {
            self.kernel().note("calm");
            self.kernel().state().is_calm = true;
            self.checks.making(Making::Works);
            self.checks.set_panics(None);
            self.checks.set_answer_time(Duration::ZERO);
            self.checks.blocking.set(Duration::ZERO);
            rt.sleep(CALM_TIME).await;
            self.checks.when_calm();
            self.reload_by_signal().await;
        }
        self.stop().await;
    }

    /// Where nothing fails, a signal has its effect.
    async fn reload_by_signal(&self) {
        let before = self.master.generation();
        self.signal(Signal::SIGHUP);
        self.kernel().rt.sleep(CALM_TIME).await;
        if self.master.generation() <= before {
            self.kernel().fault("SIGHUP was not obeyed".to_owned());
        }
        self.checks.when_calm();
    }

    fn call<F>(&self, what: What, calling: F)
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        Call::begin(self.checks, what, Box::pin(calling));
    }

    fn step(&mut self) {
        let master = self.master.clone();
        match self.chance.below(24) {
            0..4 => {
                let before = master.generation();
                self.call(What::Reload { before }, async move { master.reload().await });
            }
            4..7 => {
                let (group, size) = (self.chance.pick(&["web", "tool"]), self.chance.small(6));
                let call = async move { master.scale(group, size).await };
                self.call(What::Scale { group, size }, call);
            }
            7..10 => {
                let id = self.chance.small(6);
                let mut status = master.status().into_iter();
                let pid = status.find(|worker| worker.id == id).and_then(|worker| worker.pid);
                let call = async move { master.restart(id).await };
                self.call(What::Restart { id, pid }, call);
            }
            10 => self.call(What::Upgrade, async move { master.upgrade().await }),
            11 => self.call(What::ReopenLogs, async move { master.reopen_logs().await }),
            12 => {
                let (caller, answer) = oneshot::channel();
                let rejoin = MasterEvent::Command(MasterCommand::Rejoin(caller));
                let _ = self.sender.unbounded_send(rejoin);
                self.call(What::Rejoin, async move { answer.await.unwrap_or(Ok(())) });
            }
            13..16 => {
                let signal = self.chance.pick(&SIGNALS[3..]);
                self.signal(signal);
            }
            16 | 17 => self.accident(),
            18 => {
                let time = Duration::from_millis(self.chance.below(20_000));
                self.kernel().note(&format!("held up for {time:?}"));
                self.local.hold_up(time);
            }
            19 => {
                let making = self.chance.pick(&[Making::Works, Making::Fails, Making::Panics]);
                self.checks.making(making);
            }
            20 => {
                // Hangs, too.
                let time = self.chance.pick(&[0, 300, 2_900, 100_000].map(Duration::from_millis));
                self.checks.blocking.set(time);
            }
            21 => {
                let hook = self.chance.pick(&HOOKS);
                let hook = Some(hook).filter(|_| !self.chance.one_in(4));
                self.kernel().note(&format!("panics: {hook:?}"));
                self.checks.set_panics(hook);
            }
            22 => {
                let time = self.chance.millis(3_000);
                self.checks.set_answer_time(time);
            }
            _ => (0..200).for_each(|_| self.checks.broadcast(&"b".repeat(1000))),
        }
    }

    fn signal(&self, signal: Signal) {
        self.kernel().note(&format!("{signal}"));
        raise(signal).unwrap();
    }

    /// A process dies.
    fn accident(&mut self) {
        let exit = self.chance.pick(&DEATHS);
        let living: Vec<_> = {
            let state = self.kernel().state();
            let living = state.processes.iter().filter(|its| its.lives());
            living.map(|its| its.pid).collect()
        };
        if !living.is_empty() {
            let pid = self.chance.pick(&living);
            self.kernel().note(&format!("accident: {pid}: {exit}"));
            self.kernel().kill(pid, exit);
        }
    }

    /// Asks for the end, now and then in the middle of something.
    async fn stop(&mut self) {
        for _ in 0..self.chance.below(3) {
            self.step();
        }
        self.checks.ends();
        let rt = self.kernel().rt.clone();
        match self.chance.below(5) {
            0 => self.master.stop(),
            1 => {
                self.checks.main_obeys(false);
                self.signal(Signal::SIGQUIT);
            }
            2 => {
                self.checks.main_obeys(false);
                self.signal(Signal::SIGTERM);
                rt.sleep(Duration::from_millis(1500)).await;
                self.signal(Signal::SIGTERM);
            }
            3 => self.signal(Signal::SIGINT),
            _ => self.signal(Signal::SIGTERM),
        }
    }
}
