//! `contextd enqueue`: pushes tasks by hand. What would be dead at once is refused before anything is pushed.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::io::AsyncReadExt;

use super::{
    compose::{Composed, Given, compose, default_queue},
    failure::{Failure, Printed},
    queues::{admin, find},
};
use crate::{
    config::{Config, Queue, QueueKind, TaskFormat},
    intake::Link,
    task::{Decoder, Priority, Schemas},
};

/// Most tasks and bytes of one push; the rest follows in further ones.
const PUSH_TASKS: usize = 500;
const PUSH_BYTES: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Default, clap::Args)]
pub struct EnqueueArgs {
    /// The task's type, such as document.analyze.v1; may be left out when the events have their own
    #[arg(long = "type", value_name = "TYPE")]
    pub kind: Option<String>,
    /// The queue; follows from the type when left out
    #[arg(long)]
    pub queue: Option<String>,
    /// critical, high, normal (default) or low
    #[arg(long)]
    pub priority: Option<Priority>,
    /// The event's id; a new UUIDv7 when left out
    #[arg(long)]
    pub id: Option<String>,
    /// The event's source; /contextd/cli when left out
    #[arg(long)]
    pub source: Option<String>,
    /// The data as JSON, or @FILE, or - for standard input. Of a FILE that ends in .jsonl every line is one task: its data,
    /// or an event, whole or without what the flags say
    #[arg(long, value_name = "JSON|@FILE|-")]
    pub data: String,
}

/// What `--data` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    pub text: String,
    /// One task per line.
    pub lines: bool,
}

/// One task, checked, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    queue: String,
    id: String,
    body: Bytes,
}

/// Reads what `--data` names.
///
/// # Errors
/// A file that cannot be read, or that is not UTF-8.
pub async fn read(data: &str) -> Result<Input, Failure> {
    let unreadable = |what: &str, e: std::io::Error| Failure::Usage(format!("--data: cannot read {what}: {e}"));
    match (data, data.strip_prefix('@')) {
        ("-", _) => {
            let mut text = String::new();
            let read = tokio::io::stdin().read_to_string(&mut text).await;
            read.map_err(|e| unreadable("standard input", e))?;
            Ok(Input { text, lines: false })
        }
        (_, Some(path)) => {
            let text = tokio::fs::read_to_string(path).await.map_err(|e| unreadable(path, e))?;
            Ok(Input { text, lines: path.ends_with(".jsonl") })
        }
        (json, None) => Ok(Input { text: json.to_owned(), lines: false }),
    }
}

/// Checks every task and pushes all of them, or none when one is refused. `new_id` gives ids to those without.
///
/// # Errors
/// A task that would be dead at once; Redis cannot be reached: then it says how many were pushed.
pub async fn enqueue(
    args: &EnqueueArgs,
    input: &Input,
    config: &Config,
    link: &Link,
    now: DateTime<Utc>,
    new_id: impl FnMut() -> String,
) -> Result<Printed, Failure> {
    let planned = plan(args, input, config, now, new_id)?;
    let total = planned.len();
    let mut by_queue: BTreeMap<&str, Vec<Bytes>> = BTreeMap::new();
    for task in &planned {
        by_queue.entry(&task.queue).or_default().push(task.body.clone());
    }
    let priority = args.priority.unwrap_or(Priority::Normal);
    let (mut done, mut said) = (0, Vec::new());
    for (queue, bodies) in by_queue {
        let stream = find(config, queue)?.kind == QueueKind::Stream;
        let (admin, mut rest) = (admin(config, link, queue)?, bodies.as_slice());
        while !rest.is_empty() {
            let (now, later) = rest.split_at(chunk(rest));
            let tasks: Vec<(Priority, &[u8])> = now.iter().map(|body| (priority, body.as_ref())).collect();
            if let Err(fault) = admin.push(&tasks).await {
                let unsure = if fault.is_transient() { ", of the next ones it is not known" } else { "" };
                return Err(prefixed(fault.into(), &format!("{done} of {total} tasks were pushed{unsure}")));
            }
            done += now.len();
            rest = later;
        }
        let what = match planned.as_slice() {
            [only] => only.id.clone(),
            _ => format!("{} tasks", bodies.len()),
        };
        let place = if stream { queue.to_owned() } else { format!("{queue} ({priority})") };
        said.push(format!("pushed {what} to {place}"));
    }
    Ok(Printed::text(if said.is_empty() { "nothing to push".to_owned() } else { said.join("\n") }))
}

/// How many tasks go into the next push; at least one.
fn chunk(tasks: &[Bytes]) -> usize {
    let mut bytes = 0;
    let fits = tasks.iter().take(PUSH_TASKS).take_while(|task| {
        bytes += task.len();
        bytes <= PUSH_BYTES
    });
    fits.count().max(1)
}

fn prefixed(failure: Failure, words: &str) -> Failure {
    match failure {
        Failure::Unavailable(text) => Failure::Unavailable(format!("{words}: {text}")),
        Failure::Wrong(text) => Failure::Wrong(format!("{words}: {text}")),
        other => other,
    }
}

fn plan(
    args: &EnqueueArgs,
    input: &Input,
    config: &Config,
    now: DateTime<Utc>,
    mut new_id: impl FnMut() -> String,
) -> Result<Vec<Planned>, Failure> {
    if let Some(queue) = &args.queue {
        find(config, queue)?;
    }
    if input.lines && args.id.is_some() {
        return Err(Failure::Usage("--id is for one task: put the ids into the lines of the file".into()));
    }
    let schemas = Schemas::of_records(&config.records).map_err(|(_, e)| Failure::Configuration(e))?;
    let mut planner = Planner { args, config, now, schemas: Arc::new(schemas), decoders: BTreeMap::new() };
    if !input.lines {
        return Ok(vec![planner.one(&input.text, &mut new_id)?]);
    }
    let (mut planned, mut refused) = (Vec::new(), Vec::new());
    for (number, line) in input.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match planner.one(line, &mut new_id) {
            Ok(task) => planned.push(task),
            Err(Failure::Wrong(error)) => refused.push(format!("line {}: {error}", number + 1)),
            Err(other) => return Err(other),
        }
    }
    match refused.as_slice() {
        [] => Ok(planned),
        [first, rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!("; {} more lines are refused", rest.len()) };
            Err(Failure::Wrong(format!("nothing was pushed: {first}{more}")))
        }
    }
}

struct Planner<'a> {
    args: &'a EnqueueArgs,
    config: &'a Config,
    now: DateTime<Utc>,
    schemas: Arc<Schemas>,
    decoders: BTreeMap<String, Decoder>,
}

impl Planner<'_> {
    fn one(&mut self, text: &str, new_id: impl FnOnce() -> String) -> Result<Planned, Failure> {
        let bare = match &self.args.queue {
            Some(name) => Some(find(self.config, name)?).filter(|queue| queue.format == TaskFormat::Bare),
            None => None,
        };
        let composed = match bare {
            Some(queue) => self.bare(queue, text)?,
            None => {
                let args = self.args;
                let (kind, id, source) = (args.kind.as_deref(), args.id.as_deref(), args.source.as_deref());
                compose(text, Given { kind, id, source, now: self.now }, new_id).map_err(Failure::Wrong)?
            }
        };
        let name = match (&self.args.queue, &composed.kind) {
            (Some(name), _) => name.clone(),
            (None, Some(kind)) => default_queue(kind).to_owned(),
            (None, None) => return Err(Failure::Wrong("the task has no type: give --type".into())),
        };
        let queue = find(self.config, &name)?;
        if queue.kind == QueueKind::Stream && self.args.priority.is_some() {
            return Err(Failure::Usage(format!(
                "the queue `{name}` is a stream and has no priorities: leave out --priority"
            )));
        }
        let task = self.decoder(&name, queue)?.decode(&composed.body).map_err(|e| Failure::Wrong(e.error))?;
        Ok(Planned { queue: name, id: task.id, body: composed.body })
    }

    /// A bare payload is pushed as it is; the queue says what the flags would.
    fn bare(&self, queue: &Queue, text: &str) -> Result<Composed, Failure> {
        let kind = queue.bare.as_ref().map(|bare| bare.r#type.clone());
        let contradiction = self.args.kind.is_some() && self.args.kind != kind;
        if contradiction || self.args.id.is_some() || self.args.source.is_some() {
            let kind = kind.unwrap_or_default();
            let error = format!("this queue takes bare payloads of type {kind}: leave out --type, --id and --source");
            return Err(Failure::Usage(error));
        }
        Ok(Composed { kind, id: None, body: Bytes::copy_from_slice(text.trim().as_bytes()) })
    }

    fn decoder(&mut self, name: &str, queue: &Queue) -> Result<&Decoder, Failure> {
        if !self.decoders.contains_key(name) {
            let decoder = Decoder::new(name, queue, &self.config.limits, Arc::clone(&self.schemas))
                .map_err(|e| Failure::Configuration(e.to_string()))?;
            self.decoders.insert(name.to_owned(), decoder);
        }
        Ok(&self.decoders[name])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: &str = r#"{"documentId":"d","content":"x"}"#;

    fn config() -> Config {
        crate::config::load(None, std::iter::empty()).unwrap()
    }

    fn args(kind: &str) -> EnqueueArgs {
        EnqueueArgs { kind: Some(kind.into()), ..EnqueueArgs::default() }
    }

    fn planned(args: &EnqueueArgs, text: &str, lines: bool) -> Result<Vec<Planned>, Failure> {
        let mut n = 0;
        let ids = || {
            n += 1;
            format!("id-{n}")
        };
        plan(args, &Input { text: text.into(), lines }, &config(), crate::clock::now(), ids)
    }

    #[test]
    fn a_push_is_bounded_and_never_empty() {
        let of = |size: usize, n: usize| vec![Bytes::from(vec![0; size]); n];
        assert_eq!(chunk(&of(1, 2000)), PUSH_TASKS);
        assert_eq!(chunk(&of(PUSH_BYTES / 2, 3)), 2);
        assert_eq!(chunk(&of(2 * PUSH_BYTES, 3)), 1);
    }

    #[test]
    fn one_task_goes_to_the_queue_of_its_type() {
        let tasks = planned(&args("document.analyze.v1"), DATA, false).unwrap();
        assert_eq!((tasks[0].queue.as_str(), tasks[0].id.as_str()), ("analysis", "id-1"));
        let typing = r#"{"sessionId":"s","documentId":"d","sequence":1}"#;
        assert_eq!(planned(&args("typing.context.v1"), typing, false).unwrap()[0].queue, "typing");
        let other = EnqueueArgs { queue: Some("records".into()), ..args("document.analyze.v1") };
        assert_eq!(planned(&other, DATA, false).unwrap()[0].queue, "records");
    }

    #[test]
    fn lines_are_tasks_of_their_own_or_none_is() {
        let event = r#"{"type":"typing.context.v1","data":{"sessionId":"s","documentId":"d","sequence":1}}"#;
        let mixed = format!("{{\"type\":\"document.analyze.v1\",\"data\":{DATA}}}\n\n{event}\n");
        let tasks = planned(&EnqueueArgs::default(), &mixed, true).unwrap();
        assert_eq!(tasks.iter().map(|t| t.queue.as_str()).collect::<Vec<_>>(), ["analysis", "typing"]);
        let error = planned(&args("document.analyze.v1"), &format!("{DATA}\n{{}}\n{{\n"), true).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("nothing was pushed: line 2:") && text.contains("1 more"), "{text}");
        assert_eq!(error.code(), 1);
    }

    #[test]
    fn refuses_what_would_be_dead_or_has_no_place() {
        let good = args("document.analyze.v1");
        for (args, text, code, word) in [
            (good.clone(), "{not json", 1, "not JSON"),
            (good.clone(), r#"{"documentId":"d"}"#, 1, "content"),
            (args("document.analyse.v1"), DATA, 1, "document.analyze.v1"),
            (EnqueueArgs { id: Some("an id".into()), ..good.clone() }, DATA, 1, "`id`"),
            (EnqueueArgs { queue: Some("analisys".into()), ..good.clone() }, DATA, 64, "`analysis`"),
            (EnqueueArgs { source: Some("a b".into()), ..good.clone() }, DATA, 1, "`source`"),
            (EnqueueArgs::default(), DATA, 1, "--type"),
            (EnqueueArgs { priority: Some(Priority::Low), ..args("typing.context.v1") }, "{}", 64, "--priority"),
        ] {
            let failure = planned(&args, text, false).unwrap_err();
            assert_eq!(failure.code(), code, "{failure}");
            assert!(failure.to_string().contains(word), "{failure}");
        }
        let one_id = EnqueueArgs { id: Some("i".into()), ..good };
        assert_eq!(planned(&one_id, DATA, true).unwrap_err().code(), 64);
    }

    #[test]
    fn bare_payloads_are_pushed_as_they_are() {
        let mut config = config();
        let mut queue = config.queues["analysis"].clone();
        queue.format = TaskFormat::Bare;
        queue.bare = Some(crate::config::Bare { r#type: "document.analyze.v1".into(), id: "/documentId".into() });
        config.queues.insert("legacy".into(), queue);
        let to = |args: EnqueueArgs| EnqueueArgs { queue: Some("legacy".into()), ..args };
        let input = Input { text: format!(" {DATA} "), lines: false };
        let run = |args: &EnqueueArgs| plan(args, &input, &config, crate::clock::now(), String::new);
        let tasks = run(&to(EnqueueArgs::default())).unwrap();
        assert_eq!((tasks[0].body.as_ref(), tasks[0].id.as_str()), (DATA.as_bytes(), "d"));
        assert_eq!(run(&to(args("typing.context.v1"))).unwrap_err().code(), 64);
    }
}
