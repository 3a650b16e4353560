//! Watches over HTTP: one JSON object a line for as long as the client stays.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Context;
use super::accept::Form;
use super::body::{Answer, Body, answer};
use super::query::Query;
use super::read::{bad_version, check_fields, include, wrong_match};
use super::route::Target;
use crate::api::client::{Watch, WatchEvent};
use crate::api::resource::Res;
use crate::api::status::{Result, Status};
use crate::api::table::{self, Include};
use crate::store::Object;

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);

struct Stream {
    res: Res,
    form: Form,
    include: Include,
    bookmarks: bool,
    /// Marks the end of the initial events in the first bookmark.
    initial: bool,
    end: Option<Instant>,
    out: mpsc::Sender<Bytes>,
}

pub(super) fn start(cx: &Context, t: &Target, query: &Query, form: Form) -> Result<Answer> {
    let mut selector = query.selector()?;
    check_fields(t.res, selector.field_paths())?;
    if !t.name.is_empty() {
        selector = selector.field("metadata.name", &t.name);
    }
    let initial = query.flag("sendInitialEvents");
    if initial && query.get("resourceVersionMatch") != Some("NotOlderThan") {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(wrong_match(why));
    }
    let after = match query.get("resourceVersion") {
        None | Some("0") => None,
        Some(v) => Some(v.parse::<u64>().map_err(|_| bad_version(v))?),
    };
    let (first, after) = match after {
        Some(v) if !initial => (Vec::new(), v),
        _ => {
            let list = cx.client.list(t.res, &t.ns, &selector);
            (list.items, list.resource_version)
        }
    };
    let (out, rx) = mpsc::channel(16);
    let timeout = query.int("timeoutSeconds")?.filter(|s| *s > 0);
    let stream = Stream {
        res: t.res,
        form,
        include: include(query),
        bookmarks: query.flag("allowWatchBookmarks"),
        initial,
        end: timeout.map(|s| Instant::now() + Duration::from_secs(s as u64)),
        out,
    };
    // A position that is too old is told inside the stream, with status 200, as clients expect it.
    let watch = cx.client.watch(t.res, &t.ns, selector, after);
    tokio::spawn(async move { stream.run(first, watch).await });
    Ok(answer(200, "application/json", Body::Stream(rx)))
}

impl Stream {
    /// `None` when the client is gone.
    async fn send(&self, line: String) -> Option<()> {
        self.out.send(Bytes::from(line)).await.ok()
    }

    async fn run(self, first: Vec<std::sync::Arc<Object>>, watch: Result<Watch>) -> Option<()> {
        for object in first {
            self.send(self.line(&WatchEvent::Added(object))).await?;
        }
        let mut watch = match watch {
            Ok(w) => w,
            Err(s) => return self.send(error_line(&s)).await,
        };
        if self.initial {
            self.send(self.bookmark(watch.position(), true)).await?;
        }
        let mut tick = tokio::time::interval_at(Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        let far = Instant::now() + Duration::from_hours(8760);
        let end = self.end.unwrap_or(far);
        loop {
            tokio::select! {
                event = watch.next() => match event {
                    Ok(e) => self.send(self.line(&e)).await?,
                    Err(s) => return self.send(error_line(&s)).await,
                },
                () = self.out.closed() => return None,
                _ = tick.tick(), if self.bookmarks => {
                    self.send(self.bookmark(watch.position(), false)).await?;
                }
                () = tokio::time::sleep_until(end) => {
                    // Left at the newest version: the client resumes without listing again.
                    if self.bookmarks {
                        self.send(self.bookmark(watch.position(), false)).await?;
                    }
                    return None;
                }
            }
        }
    }

    fn line(&self, event: &WatchEvent) -> String {
        let kind = match event {
            WatchEvent::Added(_) => "ADDED",
            WatchEvent::Modified(_) => "MODIFIED",
            WatchEvent::Deleted(_) => "DELETED",
        };
        let o = event.object();
        let object = match self.form {
            Form::Table => {
                let meta = table::list_meta(o.resource_version(), None);
                table::table(self.res, &[o], &meta, self.include)
            }
            Form::Partial | Form::PartialList => table::partial(o),
            Form::Object => String::from_utf8_lossy(o.json()).into_owned(),
        };
        format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n")
    }

    fn bookmark(&self, rv: u64, end_of_initial: bool) -> String {
        let notes = if end_of_initial {
            r#","annotations":{"k8s.io/initial-events-end":"true"}"#
        } else {
            ""
        };
        let (kind, version) = match self.form {
            Form::Table => ("Table", "meta.k8s.io/v1".to_owned()),
            Form::Partial | Form::PartialList => {
                ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned())
            }
            Form::Object => (self.res.kind, self.res.api_version()),
        };
        let tail = if self.form == Form::Table {
            r#","columnDefinitions":[],"rows":[]"#
        } else {
            ""
        };
        format!(
            "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\
             \"metadata\":{{\"resourceVersion\":\"{rv}\",\"creationTimestamp\":null{notes}}}{tail}}}}}\n"
        )
    }
}

fn error_line(status: &Status) -> String {
    format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", status.to_value())
}
