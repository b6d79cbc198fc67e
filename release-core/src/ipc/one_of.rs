//! Requests of several types on one connection, each with a response type of its own.

use std::borrow::Borrow;
use std::future::Future;

use super::{Refused, Request};

/// A request that is one of the requests `All` of a connection, and has a response type of its own.
///
/// [`requests!`](crate::requests) declares the requests of a connection and implements this trait for
/// each of them. [`Peer::call`](super::Peer::call) then returns the response of the request that it
/// sends, and [`respond`](Self::respond) answers a request with its own response only.
///
/// Every request type is also one of itself, by value and by reference: a connection whose requests all
/// have the same response needs no macro.
///
/// # Examples
///
/// The implementation for a request, as the macro writes it:
///
/// ```
/// use std::borrow::Borrow;
/// use release_core::ipc::{CallError, OneOf, Peer, Request};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Length(String);
///
/// #[derive(Serialize, Deserialize)]
/// enum Ask {
///     Length(Length),
/// }
/// #[derive(Serialize, Deserialize)]
/// enum Answer {
///     Length(usize),
/// }
///
/// impl Request for Ask {
///     type Response = Answer;
///     const PAIRED: bool = true;
/// }
///
/// impl OneOf<Ask> for Length {
///     type Response = usize;
///     fn into_all(self) -> impl Borrow<Ask> {
///         Ask::Length(self)
///     }
///     fn answer(response: usize) -> Answer {
///         Answer::Length(response)
///     }
///     fn response(Answer::Length(length): Answer) -> Option<usize> {
///         Some(length)
///     }
/// }
///
/// async fn length(peer: &Peer<Ask>, text: String) -> Result<usize, CallError> {
///     peer.call(Length(text)).await
/// }
/// # let _ = length;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not one of the requests `{All}` of this connection",
    label = "not one of `{All}`",
    note = "a request is a `{All}`, a `&{All}`, or a type that `requests!` lists for `{All}`"
)]
pub trait OneOf<All: Request>: Sized {
    /// The type of the response to this request.
    type Response;

    /// Returns the request in the form that is sent.
    fn into_all(self) -> impl Borrow<All>;

    /// Returns the response in the form that is sent.
    fn answer(response: Self::Response) -> All::Response;

    /// Returns the response that the peer has sent, or `None` if it is the response to another request.
    fn response(answer: All::Response) -> Option<Self::Response>;

    /// Answers this request with its own response, or a refusal.
    ///
    /// Use it in each arm of a `match` over `All`: the compiler then finds a request that has no
    /// answer, and an answer that belongs to another request.
    ///
    /// # Errors
    ///
    /// Returns the refusal of `handler`.
    ///
    /// # Examples
    ///
    /// The master answers two kinds of requests:
    ///
    /// ```
    /// use release_core::ipc::OneOf;
    /// use release_core::{Workers, requests};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Length(String);
    /// #[derive(Serialize, Deserialize)]
    /// struct Shout(String);
    ///
    /// requests! {
    ///     #[derive(Serialize, Deserialize)]
    ///     enum Ask {
    ///         Length(Length) -> usize,
    ///         Shout(Shout) -> String,
    ///     }
    ///     #[derive(Serialize, Deserialize)]
    ///     enum Answer;
    /// }
    ///
    /// let workers = Workers::same_executable("text", 2).user("nobody").answer(|_, ask| async move {
    ///     match ask {
    ///         Ask::Length(it) => it.respond(async |Length(text)| Ok(text.len())).await,
    ///         Ask::Shout(it) => it.respond(async |Shout(text)| Ok(text.to_uppercase())).await,
    ///     }
    /// });
    /// # let _ = workers;
    /// ```
    fn respond<F>(
        self,
        handler: impl FnOnce(Self) -> F,
    ) -> impl Future<Output = Result<All::Response, Refused>>
    where
        F: Future<Output = Result<Self::Response, Refused>>,
    {
        let response = handler(self);
        async move { response.await.map(Self::answer) }
    }
}

impl<R: Request> OneOf<R> for R {
    type Response = R::Response;

    fn into_all(self) -> impl Borrow<R> {
        self
    }

    fn answer(response: R::Response) -> R::Response {
        response
    }

    fn response(answer: R::Response) -> Option<R::Response> {
        Some(answer)
    }
}

impl<R: Request> OneOf<R> for &R {
    type Response = R::Response;

    fn into_all(self) -> impl Borrow<R> {
        self
    }

    fn answer(response: R::Response) -> R::Response {
        response
    }

    fn response(answer: R::Response) -> Option<R::Response> {
        Some(answer)
    }
}

/// Declares the requests of a connection, each with a response type of its own.
///
/// The macro turns the two enums into ordinary ones: the first contains the requests, the second the
/// responses, in the same order and with the same names. The first is the [`Request`](crate::ipc::Request)
/// type of the connection, for [`Workers::answer`](crate::Workers::answer),
/// [`Worker::run_answering`](crate::Worker::run_answering), [`Me`](crate::Me), or
/// [`ipc::connect`](crate::ipc::connect); each request is [one of](crate::ipc::OneOf) it. On the wire a message is the
/// enum: the number of the variant, then its content.
///
/// A request that you add at the end is compatible with running workers: see `docs/MESSAGES.md`.
///
/// # Examples
///
/// ```
/// use release_core::ipc::CallError;
/// use release_core::{Me, requests};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// pub struct Sign {
///     pub message: Vec<u8>,
/// }
/// #[derive(Serialize, Deserialize)]
/// pub struct Certificate;
///
/// requests! {
///     /// What a worker asks its master.
///     #[derive(Serialize, Deserialize)]
///     pub enum Ask {
///         /// Signs a message.
///         Sign(Sign) -> Vec<u8>,
///         /// Reads the certificate.
///         Certificate(Certificate) -> String,
///     }
///     /// What the master answers.
///     #[derive(Serialize, Deserialize)]
///     pub enum Answer;
/// }
///
/// async fn work(me: Me<(), Ask>) -> Result<(), CallError> {
///     let certificate: String = me.master().call(Certificate).await?;
///     let signature: Vec<u8> = me.master().call(Sign { message: certificate.into() }).await?;
///     # let _ = signature;
///     Ok(())
/// }
/// # let _ = work;
/// ```
#[macro_export]
macro_rules! requests {
    (
        $(#[$attribute:meta])*
        $visibility:vis enum $all:ident {
            $($(#[$of_request:meta])* $name:ident($request:ty) -> $response:ty),+ $(,)?
        }
        $(#[$of_answer:meta])*
        $answer_visibility:vis enum $answer:ident;
    ) => {
        $(#[$attribute])*
        $visibility enum $all {
            $($(#[$of_request])* $name($request)),+
        }

        $(#[$of_answer])*
        $answer_visibility enum $answer {
            $(
                #[doc = concat!("The response to [`", stringify!($all), "::", stringify!($name), "`].")]
                $name($response)
            ),+
        }

        impl $crate::ipc::Request for $all {
            type Response = $answer;
            const PAIRED: bool = true;
        }

        $(
            impl $crate::ipc::OneOf<$all> for $request {
                type Response = $response;

                fn into_all(self) -> impl ::core::borrow::Borrow<$all> {
                    $all::$name(self)
                }

                fn answer(response: $response) -> $answer {
                    $answer::$name(response)
                }

                fn response(answer: $answer) -> ::core::option::Option<$response> {
                    #[allow(unreachable_patterns)] // For a single request.
                    match answer {
                        $answer::$name(response) => ::core::option::Option::Some(response),
                        _ => ::core::option::Option::None,
                    }
                }
            }
        )+
    };
}
