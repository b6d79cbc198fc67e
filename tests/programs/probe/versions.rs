//! A program whose messages are other ones in each version. The last byte of its file is the version.

use std::fmt::Debug;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use clap::Args;
use release::ipc::Request;
use release::{ControlSocket, Error, Exit, Master, Me, Workers, driver, handed_over, log, me};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

#[derive(Args)]
pub(crate) struct Options {
    #[arg(long)]
    control: PathBuf,
}

/// What the master asks its worker: to ask for something, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Go;

impl Request for Go {
    type Response = String;
}

/// The messages of a version.
trait Version: 'static {
    type Ask: Request<Response = Self::Answer> + Debug + Serialize + DeserializeOwned + Sync;
    type Answer: Debug + Send + Serialize + DeserializeOwned + 'static;
    type Left: Serialize + DeserializeOwned + 'static;
    fn ask() -> Self::Ask;
    fn answer(ask: &Self::Ask) -> Self::Answer;
    fn left() -> Self::Left;
}

/// Versions by the variants of their requests, their answers, and what they hand over.
macro_rules! versions {
    ($($name:ident: { $($ask:tt)* }, { $($answer:tt)* }, { $($left:tt)* }, $some:expr;)*) => {$(
        mod $name {
            use super::*;

            #[derive(Debug, Serialize, Deserialize)]
            #[allow(dead_code)]
            pub(super) enum Ask { $($ask)* }

            impl Request for Ask {
                type Response = Answer;
            }

            #[derive(Debug, Default, Serialize, Deserialize)]
            pub(super) struct Answer { said: String, $($answer)* }

            #[derive(Default, Serialize, Deserialize)]
            pub(super) struct Left { count: u64, $($left)* }

            pub(super) struct This;

            impl Version for This {
                type Ask = Ask;
                type Answer = Answer;
                type Left = Left;

                fn ask() -> Ask {
                    $some
                }

                fn answer(ask: &Ask) -> Answer {
                    let mut answer = Answer::default();
                    answer.said = format!("{ask:?}");
                    answer
                }

                fn left() -> Left {
                    Left::default()
                }
            }
        }
    )*};
}

versions! {
    v1: { Touch, Read { id: u32 } }, {}, {}, Ask::Read { id: 7 };
    v2: { Touch, Delete, Read { id: u32 } }, {}, {}, Ask::Read { id: 7 };
    v3: { Touch, Read { id: u32 }, Delete }, {}, {}, Ask::Read { id: 7 };
    v4: { Touch, Read { id: u64 } }, {}, {}, Ask::Read { id: 7 };
    v5: { Touch, Read { id: u32 } }, { size: u32, }, {}, Ask::Read { id: 7 };
    v6: { Touch, Read { id: u32 } }, {}, { #[serde(default)] sum: u64, }, Ask::Read { id: 7 };
    v7: { Touch, Read { id: u32, #[serde(skip_serializing_if = "Option::is_none")] to: Option<u8> } },
        {}, {}, Ask::Read { id: 7, to: None };
    v8: { Touch, Read { id: u32 } }, {},
        { #[serde(flatten)] rest: std::collections::BTreeMap<String, u8> }, Ask::Touch;
}

/// Runs this as the version that the program's file says.
macro_rules! as_version {
    ($run:ident($($argument:expr),*)) => {
        match version() {
            b'2' => $run::<v2::This>($($argument),*),
            b'3' | b'9' => $run::<v3::This>($($argument),*),
            b'4' => $run::<v4::This>($($argument),*),
            b'5' => $run::<v5::This>($($argument),*),
            b'6' => $run::<v6::This>($($argument),*),
            b'7' => $run::<v7::This>($($argument),*),
            b'8' => $run::<v8::This>($($argument),*),
            _ => $run::<v1::This>($($argument),*),
        }
    };
}

fn version() -> u8 {
    let mut last = [0];
    let read = std::fs::File::open("/proc/self/exe").and_then(|mut file| {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)
    });
    read.map_or(0, |()| last[0])
}

pub(crate) fn run(options: Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    as_version!(master(options)).unwrap_or_else(Exit::from)
}

fn master<V: Version>(options: Options) -> Result<Exit, Error> {
    handed_over::<V::Left>()?;
    let workers = Workers::same_executable("versions", 1)
        .requests::<Go>()
        .user("nobody")
        .answer(|_, ask: V::Ask| async move { Ok(V::answer(&ask)) });
    let connections = workers.connections();
    let control = ControlSocket::new(options.control);
    let master = Master::new().workers(workers).hand_over(V::left);
    let master = master.control(control, move |master, _, words: String| {
        let connections = connections.clone();
        async move {
            if words == "status" {
                let states = master.status().into_iter();
                return Ok(states.map(|worker| format!("{:?} ", worker.state.as_str())).collect());
            }
            if words == "upgrade" {
                return Ok(master.upgrade().await.map_or_else(|error| error.report(), |()| "ok".into()));
            }
            let (_, worker) = connections.list().pop().ok_or("no worker").map_err(release::ipc::Refused::new)?;
            Ok(worker.call(&Go).await?)
        }
    });
    Ok(master.run(driver))
}

pub(crate) fn worker() -> Exit {
    as_version!(work())
}

fn work<V: Version>() -> Exit {
    let (give, orders) = futures_channel::mpsc::unbounded::<futures_channel::oneshot::Sender<String>>();
    let answer = move |Go| {
        let (answer, said) = futures_channel::oneshot::channel();
        let given = give.unbounded_send(answer);
        async move {
            given?;
            Ok(said.await?)
        }
    };
    me().run_answering(driver, answer, async move |me: Me<(), V::Ask>| {
        use futures_util::StreamExt;
        if version() == b'9' {
            return Err("on purpose".into());
        }
        me.ready()?;
        let mut orders = orders.take_until(me.stopping());
        while let Some(order) = orders.next().await {
            let said = format!("{:?}", me.master().call(&V::ask()).await);
            let _ = order.send(said);
        }
        Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    })
}
