//! Streams text word by word, as a language model would: `llm.complete`.
//!
//! A caller sends a [`Prompt`] and gets a stream of [`Token`]s at the rate that it asked for. When it cancels, or goes
//! away, no further token is made, and the log says so. Calls go the other way as well: a caller that serves methods of
//! its own (a browser page, say) names them in its prompt, and is asked there whether to go on, and told what became of
//! its stream. [`words`] makes the text.
#![forbid(unsafe_code)]

mod words;

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::Parser;
use fluxar::{Client, Code, Error, ItemSink, Peer, Request};
use serde::{Deserialize, Serialize};
use tokio::time::MissedTickBehavior;
use words::{Model, ends_sentence};

/// Of tokens and their rate, the most that may be asked for.
const MOST: u32 = 100_000;
/// How long a caller may think about whether to go on.
const CONFIRM: Duration = Duration::from_secs(60);
/// How long streams may go on when it is told to end.
const LEAVE: Duration = Duration::from_secs(10);

/// Streams text word by word, as a language model would.
#[derive(Debug, Parser)]
struct Args {
    /// Address of the gateway.
    #[arg(long, env = "FLUXAR_URL", default_value = "tcp://127.0.0.1:9000")]
    url: String,

    /// Most streams at a time; the gateway lets others wait.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    streams: u16,
}

/// What `llm.complete` is asked.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Prompt {
    prompt: String,
    max_tokens: u32,
    tokens_per_s: u32,
    /// The caller serves `PAGE.title`, `PAGE.confirm` and `PAGE.stopped`.
    page: Option<String>,
    /// Ask `PAGE.confirm` after so many tokens whether to go on.
    ask_after: Option<u32>,
}

impl Default for Prompt {
    fn default() -> Self {
        Self {
            prompt: String::new(),
            max_tokens: 200,
            tokens_per_s: 30,
            page: None,
            ask_after: None,
        }
    }
}

/// An item of the answer.
#[derive(Debug, Serialize)]
struct Token {
    text: String,
    /// In the last one: why it is that.
    #[serde(skip_serializing_if = "Option::is_none")]
    finish: Option<Finish>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Finish {
    /// The text was at its end.
    Stop,
    /// It has as many tokens as were asked for.
    Length,
    /// The caller was asked, and said no.
    Declined,
}

/// What `llm.status` answers.
#[derive(Debug, Default)]
struct Counts {
    begun: AtomicU64,
    tokens: AtomicU64,
    ended: AtomicU64,
    cancelled: AtomicU64,
}

#[derive(Debug, Serialize)]
struct Status {
    open: u64,
    tokens: u64,
    ended: u64,
    cancelled: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("llm: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> fluxar::Result<()> {
    let agent = concat!("llm/", env!("CARGO_PKG_VERSION"));
    let connecting = Client::connect(&args.url).agent(agent).keep_dialing(true).build();
    let client = tokio::select! {
        client = connecting => client?,
        () = told_to_end() => return Ok(()),
    };
    let (model, counts) = (Arc::new(Model::new()), Arc::new(Counts::default()));
    let of_streams = counts.clone();
    let offer = client
        .serve_stream("llm.complete", move |request: Request, out: ItemSink<Token>| {
            complete(model.clone(), of_streams.clone(), request, out)
        })
        .max_in_flight(args.streams.into())
        .await?;
    let status = client
        .serve("llm.status", move |_: Request| {
            let status = counts.status();
            async move { Ok(status) }
        })
        .await?;
    eprintln!("llm: serving llm.complete at {} (Ctrl-C ends)", client.address());
    tokio::select! {
        why = offer.ended() => return Err(why.unwrap_or_else(|| Error::new(Code::Cancelled, "the offer was ended"))),
        () = told_to_end() => {}
    }
    eprintln!("llm: leaving; what is open has {} s to end", LEAVE.as_secs());
    let leaving = async { tokio::join!(offer.leave(), status.leave()) };
    tokio::select! {
        left = leaving => left.0.and(left.1)?,
        () = tokio::time::sleep(LEAVE) => eprintln!("llm: what is still open is given up"),
        () = told_to_end() => {}
    }
    client.close().await;
    Ok(())
}

/// Completes at Ctrl-C or SIGTERM.
async fn told_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminated) => tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminated.recv() => {}
        },
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}

/// One stream, from its prompt to its last token.
async fn complete(
    model: Arc<Model>,
    counts: Arc<Counts>,
    request: Request,
    out: ItemSink<Token>,
) -> fluxar::Result<()> {
    let prompt: Prompt = request.payload()?;
    if !(1..=MOST).contains(&prompt.max_tokens) || !(1..=MOST).contains(&prompt.tokens_per_s) {
        let what = format!("max_tokens and tokens_per_s are numbers from 1 to {MOST}");
        return Err(Error::new(Code::InvalidArgument, what));
    }
    let mut stream = Open::new(counts, request.peer().clone(), prompt.page.clone());
    // From here on it may be dropped at any await: that is how a cancel arrives.
    match stream.generate(&model, &prompt, &out).await {
        Ok(finish) => stream.ended(&format!("finished: {finish:?}")),
        Err(error) if error.code() == Code::Cancelled => {}
        Err(error) => {
            stream.ended(&format!("failed: {error}"));
            return Err(error);
        }
    }
    Ok(())
}

/// An open stream. Dropped before it has ended, it was cancelled.
struct Open {
    number: u64,
    tokens: u32,
    counts: Arc<Counts>,
    peer: Peer,
    page: Option<String>,
    has_ended: bool,
}

/// The argument of `PAGE.confirm`.
#[derive(Debug, Serialize)]
struct Question {
    question: String,
}

/// The argument of `PAGE.stopped`.
#[derive(Debug, Serialize)]
struct Stopped {
    tokens: u32,
}

impl Open {
    fn new(counts: Arc<Counts>, peer: Peer, page: Option<String>) -> Self {
        Self {
            number: counts.begun.fetch_add(1, Relaxed) + 1,
            tokens: 0,
            counts,
            peer,
            page,
            has_ended: false,
        }
    }

    async fn generate(
        &mut self,
        model: &Model,
        prompt: &Prompt,
        out: &ItemSink<Token>,
    ) -> fluxar::Result<Finish> {
        if let Some(page) = &self.page {
            let title: String = self.peer.call(&format!("{page}.title"), &()).await?;
            self.log(&format!("opened by “{title}”"));
        }
        self.log(&format!(
            "up to {} tokens, {} a second",
            prompt.max_tokens, prompt.tokens_per_s
        ));
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / prompt.tokens_per_s);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut text = model.answer(&prompt.prompt);
        loop {
            ticks.tick().await;
            let word = text.next().unwrap_or_default();
            let space = if self.tokens == 0 { "" } else { " " };
            self.tokens += 1;
            self.counts.tokens.fetch_add(1, Relaxed);
            let finish = if self.tokens == prompt.max_tokens {
                Some(Finish::Length)
            } else if ends_sentence(word) && self.tokens >= prompt.max_tokens / 4 * 3 {
                Some(Finish::Stop)
            } else {
                None
            };
            let text = format!("{space}{word}");
            out.send(&Token { text, finish }).await?;
            if let Some(finish) = finish {
                return Ok(finish);
            }
            if prompt.ask_after == Some(self.tokens) && !self.may_go_on().await? {
                let (text, finish) = (String::new(), Finish::Declined);
                let last = Token {
                    text,
                    finish: Some(finish),
                };
                out.send(&last).await?;
                return Ok(finish);
            }
        }
    }

    /// Asks the caller. Without a page there is nobody to ask.
    async fn may_go_on(&self) -> fluxar::Result<bool> {
        let Some(page) = &self.page else { return Ok(true) };
        let question = format!("{} tokens so far. Shall I go on?", self.tokens);
        let method = format!("{page}.confirm");
        let asked = self.peer.request(&method).timeout(CONFIRM);
        let answer: bool = asked.payload(&Question { question }).send().await?;
        self.log(if answer { "is to go on" } else { "is to end" });
        Ok(answer)
    }

    fn ended(&mut self, how: &str) {
        self.has_ended = true;
        self.counts.ended.fetch_add(1, Relaxed);
        self.log(&format!("{how} after {} tokens", self.tokens));
    }

    fn log(&self, what: &str) {
        eprintln!("llm: stream {}: {what}", self.number);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.counts.cancelled.fetch_add(1, Relaxed);
        self.log(&format!("cancelled after {} tokens", self.tokens));
        let (Some(page), Ok(runtime)) = (self.page.take(), tokio::runtime::Handle::try_current()) else {
            return;
        };
        let (peer, tokens) = (self.peer.clone(), self.tokens);
        runtime.spawn(async move {
            // A page that has gone away is not there to be told.
            drop(
                peer.call::<_, ()>(&format!("{page}.stopped"), &Stopped { tokens })
                    .await,
            );
        });
    }
}

impl Counts {
    fn status(&self) -> Status {
        let (ended, cancelled) = (self.ended.load(Relaxed), self.cancelled.load(Relaxed));
        Status {
            open: self.begun.load(Relaxed).saturating_sub(ended + cancelled),
            tokens: self.tokens.load(Relaxed),
            ended,
            cancelled,
        }
    }
}
