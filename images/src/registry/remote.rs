//! A registry with its mirrors: each is asked in turn until one has what is wanted.

use std::sync::Arc;

use hyper::body::Bytes;

use super::{BlobStream, Client, hosts, registries};
use crate::{Digest, Error, Reference, RegistryOptions, Result};

/// The places of one repository, mirrors first and the registry itself last.
pub(crate) struct Remote {
    pub(super) clients: Vec<Arc<Client>>,
}

impl Remote {
    /// Reads the mirrors' settings. Nothing is asked yet, but loopback registries, for TLS.
    pub async fn connect(reference: &Reference, options: &RegistryOptions) -> Result<Arc<Self>> {
        let mut hosts = match &options.hosts_dir {
            Some(dir) => hosts::read(dir, reference.registry())?,
            None => Vec::new(),
        };
        if hosts.is_empty() {
            hosts = registries::read(options.registries_conf.as_deref(), reference)?;
        }
        let mut clients = Vec::new();
        for host in &hosts {
            let client = Client::at_host(reference, options, host, host.mirror)?;
            clients.push(Arc::new(client));
        }
        if clients.is_empty() {
            clients.push(Client::new(reference, options).await?);
        }
        Ok(Arc::new(Self { clients }))
    }

    /// The registry itself, behind its mirrors.
    pub(super) fn registry(&self) -> &Arc<Client> {
        self.clients.last().expect("a registry has a place")
    }

    /// The bytes of a manifest or index, verified where the identifier is a digest.
    pub async fn manifest(&self, identifier: &str) -> Result<Bytes> {
        let by_digest = identifier.parse::<Digest>().is_ok();
        let able = |client: &&Arc<Client>| {
            if by_digest {
                client.pulls
            } else {
                client.resolves
            }
        };
        let mut clients = self.clients.iter().filter(able).peekable();
        while let Some(client) = clients.next() {
            match client.manifest(identifier).await {
                Err(error) if clients.peek().is_some() => tell(&error),
                other => return other,
            }
        }
        Err(self.nobody("resolve"))
    }

    /// A small blob whole, verified.
    pub async fn document(self: &Arc<Self>, digest: &Digest, size: u64) -> Result<Vec<u8>> {
        let mut clients = self.clients.iter().filter(|client| client.pulls).peekable();
        while let Some(client) = clients.next() {
            let one = Arc::new(Self {
                clients: vec![Arc::clone(client)],
            });
            match client
                .document(BlobStream::new(one, digest.clone(), size, 0), digest, size)
                .await
            {
                Err(error) if clients.peek().is_some() => tell(&error),
                other => return other,
            }
        }
        Err(self.nobody("pull"))
    }

    /// The place to push to.
    pub fn for_push(&self) -> Result<&Arc<Client>> {
        let client = self.clients.iter().rev().find(|client| client.pushes);
        client.ok_or_else(|| self.nobody("push"))
    }

    fn nobody(&self, what: &str) -> Error {
        let registry = self
            .clients
            .first()
            .map_or(String::new(), |client| client.registry.clone());
        let why = format!("hosts.toml or registries.conf gives no host that can {what}");
        Error::Registry {
            registry,
            what: what.to_owned(),
            why,
        }
    }
}

/// A mirror's failure is no failure as long as another can be asked.
pub(super) fn tell(error: &Error) {
    tracing::info!("mirror left out: {error}");
}
