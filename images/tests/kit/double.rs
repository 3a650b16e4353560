//! A registry that misbehaves on purpose.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::HashMap;
use std::fmt::{Display, Write as _};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rrun_images::Digest;

use super::{Blob, documents};

pub struct Request {
    pub method: String,
    pub path: String,
    /// Lower-case names.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

#[derive(Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Break the connection after this many bytes of the body.
    pub cut: Option<usize>,
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    pub fn header(mut self, name: &str, value: impl Display) -> Self {
        self.headers.push((name.to_owned(), format!("{value}")));
        self
    }

    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }
}

/// A server on a loopback port. It ends with the process; each test has its own.
pub struct Double {
    pub host: String,
    /// `METHOD path` of all requests, in order.
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Double {
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (handler, seen) = (Arc::new(handler), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (handler, seen) = (Arc::clone(&handler), Arc::clone(&seen));
                std::thread::spawn(move || serve(&stream.unwrap(), &*handler, &seen));
            }
        });
        Self { host, log }
    }

    pub fn count(&self, part: &str) -> usize {
        self.log
            .lock()
            .unwrap()
            .iter()
            .filter(|line| line.contains(part))
            .count()
    }
}

fn serve(stream: &TcpStream, handler: &dyn Fn(&Request) -> Reply, log: &Mutex<Vec<String>>) {
    // Head and body are two writes: the second would wait for the first one's acknowledgement.
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = read_request(&mut reader) {
        // Clients ask first whether there is TLS; that is not what tests count.
        if request.path == "/v2/" {
            write_reply(stream, &request, &Reply::new(200, "{}")).unwrap();
            continue;
        }
        log.lock()
            .unwrap()
            .push(format!("{} {}", request.method, request.path));
        let reply = handler(&request);
        if write_reply(stream, &request, &reply).is_err() || reply.cut.is_some() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .map_or(0, |n| n.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request {
        method,
        path,
        headers,
        body,
    })
}

fn write_reply(mut stream: &TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
    for (name, value) in &reply.headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n", reply.body.len());
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])
}

/// What a well-behaved registry would answer for an image named `app:1`.
#[derive(Clone)]
pub struct Content {
    pub blobs: HashMap<String, Vec<u8>>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Digest>,
}

impl Content {
    pub fn new(layers: &[Blob]) -> Self {
        let (config, manifest) = documents(layers);
        let all = layers.iter().map(|l| l.bytes.clone()).chain([config]);
        let blobs = all
            .map(|bytes| (Digest::of(&bytes).to_string(), bytes))
            .collect();
        let layers = layers.iter().map(|l| Digest::of(&l.bytes)).collect();
        Self {
            blobs,
            manifest,
            layers,
        }
    }

    pub fn answer(&self, request: &Request) -> Reply {
        let path = request.path.split('?').next().unwrap();
        if path.contains("/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            return Reply::new(200, self.manifest.clone()).header("Content-Type", kind);
        }
        let Some(blob) = path
            .rsplit('/')
            .next()
            .and_then(|digest| self.blobs.get(digest))
        else {
            return Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#);
        };
        let range = request.headers.get("range").map(|range| {
            let (from, to) = range.trim_start_matches("bytes=").split_once('-').unwrap();
            let last = to.parse().unwrap_or(blob.len() - 1);
            (from.parse::<usize>().unwrap(), last)
        });
        match range {
            Some((from, last)) => Reply::new(206, blob[from..=last].to_vec()).header(
                "Content-Range",
                format!("bytes {from}-{last}/{}", blob.len()),
            ),
            None => Reply::new(200, blob.clone()),
        }
    }
}
