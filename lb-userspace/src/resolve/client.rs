// SPDX-License-Identifier: MIT OR Apache-2.0
//! Asks /etc/hosts and DNS servers. Which servers to ask, when to ask again and whom to believe is decided here; hickory-resolver
//! brings questions to one server and answers back (UDP, and TCP where UDP truncates).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::answer::{Found, Kind, NoAnswer, Reply, Role, ServiceRecord, in_hosts, usable};
use crate::config::needs::SYSTEM_SERVERS_MAX;
use crate::config::{self, Config, Family};

/// Where the system's DNS servers stand (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Names that need no DNS (hosts(5)).
const HOSTS: &str = "/etc/hosts";

/// The server where the system names none (resolv.conf(5)).
const LOCAL_SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), DNS_PORT);

/// The port of DNS (RFC 1035 section 4.2).
const DNS_PORT: u16 = 53;

/// Most hosts of one service; more cannot become servers.
const HOSTS_MAX: usize = 1_024;

/// Replies to the questions for one host.
pub(super) type HostReplies = Vec<(Kind, Reply<IpAddr>)>;

/// Asks. Shared by all names.
#[derive(Debug)]
pub(super) struct Client {
    settings: config::Resolver,
    /// Bounds the sockets.
    permits: Semaphore,
    servers: Mutex<Servers>,
}

/// One resolver a DNS server.
#[derive(Debug, Default)]
struct Servers {
    /// What /etc/resolv.conf held when they were made of it; `None`: not made yet.
    origin: Option<Vec<u8>>,
    resolvers: Vec<TokioResolver>,
}

impl Client {
    /// For a configuration, with so many questions at the same time.
    pub(super) fn new(config: &Config, queries: u64) -> Self {
        let queries = usize::try_from(queries).unwrap_or(1).max(1);
        Self {
            settings: config.resolver.clone(),
            permits: Semaphore::new(queries),
            servers: Mutex::default(),
        }
    }

    /// The addresses of a host, by kind of record. Names in /etc/hosts are not asked of DNS.
    pub(super) async fn host(&self, name: &str, family: Family) -> HostReplies {
        let is_wanted = |ip: &IpAddr| match family {
            Family::Any => true,
            Family::Ipv4 => ip.is_ipv4(),
            Family::Ipv6 => ip.is_ipv6(),
        };
        let local: Vec<IpAddr> =
            in_hosts(&read(Path::new(HOSTS)), name).into_iter().filter(is_wanted).collect();
        if !local.is_empty() {
            return by_kind(family, &local);
        }
        match family {
            Family::Ipv4 => vec![(Kind::V4, self.addresses(name, RecordType::A).await)],
            Family::Ipv6 => vec![(Kind::V6, self.addresses(name, RecordType::AAAA).await)],
            Family::Any => {
                let (v4, v6) =
                    tokio::join!(self.addresses(name, RecordType::A), self.addresses(name, RecordType::AAAA));
                vec![(Kind::V4, v4), (Kind::V6, v6)]
            }
        }
    }

    /// The SRV records of a service.
    pub(super) async fn service(&self, name: &str) -> Reply<ServiceRecord> {
        let lookup = self.ask(name, RecordType::SRV).await?;
        let mut found = found(&lookup, service_record)?;
        found.items.sort_by_key(|record| (record.role.priority, record.target.clone(), record.role.port));
        found.items.truncate(HOSTS_MAX);
        Ok(found)
    }

    /// The addresses of the hosts that these records name.
    pub(super) async fn hosts(
        self: &Arc<Self>,
        records: &[ServiceRecord],
        family: Family,
    ) -> BTreeMap<Arc<str>, HostReplies> {
        let mut replies: BTreeMap<Arc<str>, HostReplies> = BTreeMap::new();
        let mut asked = JoinSet::new();
        for record in records {
            let unknown = vec![(Kind::V4, Err(NoAnswer::Failure))];
            if replies.insert(Arc::clone(&record.target), unknown).is_none() {
                let (client, host) = (Arc::clone(self), Arc::clone(&record.target));
                asked.spawn(async move { (client.host(&host, family).await, host) });
            }
        }
        while let Some(joined) = asked.join_next().await {
            // A task that panicked leaves a failure.
            if let Ok((reply, host)) = joined {
                replies.insert(host, reply);
            }
        }
        replies
    }

    async fn addresses(&self, name: &str, kind: RecordType) -> Reply<IpAddr> {
        found(&self.ask(name, kind).await?, |data| data.ip_addr().and_then(usable))
    }

    /// Asks all servers, several times if need be. The first that has records is right; that there are none counts only where every
    /// server says so: one for names inside and one for those outside do not know each other's, and that the one which knows does
    /// not answer leaves all in doubt.
    async fn ask(&self, name: &str, kind: RecordType) -> Result<Lookup, NoAnswer> {
        let name = Name::from_ascii(format!("{name}.")).map_err(|_| NoAnswer::Failure)?;
        let _permit = self.permits.acquire().await.map_err(|_| NoAnswer::Failure)?;
        for _ in 0..self.settings.attempts.get() {
            match self.ask_once(&name, kind).await {
                // Nobody said anything, perhaps because packets were lost. Who fails or refuses would do so again.
                Err(NoAnswer::Timeout) => {}
                decided => return decided,
            }
        }
        Err(NoAnswer::Timeout)
    }

    async fn ask_once(&self, name: &Name, kind: RecordType) -> Result<Lookup, NoAnswer> {
        let mut asked = JoinSet::new();
        for resolver in self.resolvers() {
            let (name, patience) = (name.clone(), self.settings.timeout);
            asked.spawn(async move { timeout(patience, resolver.lookup(name, kind)).await });
        }
        let mut reasons = Vec::new();
        while let Some(joined) = asked.join_next().await {
            reasons.push(match joined {
                Ok(Ok(Ok(lookup))) => return Ok(lookup),
                Ok(Ok(Err(error))) => why(&error),
                Ok(Err(_)) => NoAnswer::Timeout,
                Err(_) => NoAnswer::Failure,
            });
        }
        Err(joint(&reasons))
    }

    /// One resolver a server; made anew when /etc/resolv.conf has changed.
    fn resolvers(&self) -> Vec<TokioResolver> {
        // What it guards cannot be left half done.
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_configured = !self.settings.servers.is_empty();
        let origin = if is_configured { Vec::new() } else { read(Path::new(RESOLV_CONF)).into_bytes() };
        if servers.origin.as_ref() != Some(&origin) {
            let addresses =
                if is_configured { self.settings.servers.clone() } else { system_servers(&origin) };
            let resolvers = addresses.iter().filter_map(|address| resolver(*address, self.settings.timeout));
            *servers = Servers { resolvers: resolvers.collect(), origin: Some(origin) };
        }
        servers.resolvers.clone()
    }
}

/// The text of a small file of the system; one that cannot be read counts as empty.
fn read(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// The servers of a text like /etc/resolv.conf.
fn system_servers(text: &[u8]) -> Vec<SocketAddr> {
    let config = parse_resolv_conf(text).map(|(config, _)| config);
    let servers: Vec<SocketAddr> = (config.iter().flat_map(ResolverConfig::name_servers))
        .map(|server| SocketAddr::new(server.ip, DNS_PORT))
        .take(SYSTEM_SERVERS_MAX)
        .collect();
    if servers.is_empty() { vec![LOCAL_SERVER] } else { servers }
}

/// A resolver for one server, without a cache: how long answers count is not its business.
fn resolver(server: SocketAddr, patience: Duration) -> Option<TokioResolver> {
    let at_port = |mut connection: ConnectionConfig| {
        connection.port = server.port();
        connection
    };
    let connections = vec![at_port(ConnectionConfig::udp()), at_port(ConnectionConfig::tcp())];
    let server = NameServerConfig::new(server.ip(), true, connections);
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut options = ResolverOpts::default();
    options.timeout = patience;
    options.attempts = 0;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let built = builder.with_options(options).build();
    built.inspect_err(|error| tracing::error!(%error, "cannot ask a DNS server")).ok()
}

/// The records of an answer that mean something to us.
fn found<T>(lookup: &Lookup, item: impl Fn(&RData) -> Option<T>) -> Reply<T> {
    let items: Vec<T> = lookup.answers().iter().filter_map(|record| item(&record.data)).collect();
    if items.is_empty() {
        return Err(NoAnswer::Empty);
    }
    // Names that lead to the name (CNAME) count, too.
    let seconds = lookup.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
    Ok(Found { items, ttl: Duration::from_secs(seconds.into()), is_partial: false })
}

/// A record whose target is the root says that there is no such service (RFC 2782).
fn service_record(data: &RData) -> Option<ServiceRecord> {
    let RData::SRV(record) = data else { return None };
    let target = record.target.to_ascii().to_ascii_lowercase();
    let target = target.trim_end_matches('.');
    let role = Role { port: record.port, priority: record.priority, weight: record.weight };
    (!target.is_empty() && role.port != 0).then(|| ServiceRecord { target: target.into(), role })
}

/// What it amounts to that no server has records.
fn joint(reasons: &[NoAnswer]) -> NoAnswer {
    let is_certain = |reason: &NoAnswer| reason.is_certain();
    match () {
        // A name that one server knows exists.
        () if reasons.iter().all(is_certain) && reasons.contains(&NoAnswer::Empty) => NoAnswer::Empty,
        () if reasons.iter().all(is_certain) && !reasons.is_empty() => NoAnswer::NxDomain,
        () if reasons.iter().any(is_certain) => NoAnswer::Doubt,
        () if reasons.contains(&NoAnswer::Timeout) => NoAnswer::Timeout,
        () => NoAnswer::Failure,
    }
}

fn why(error: &NetError) -> NoAnswer {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NXDomain, ..
        })) => NoAnswer::NxDomain,
        NetError::Dns(DnsError::NoRecordsFound(NoRecords {
            response_code: ResponseCode::NoError, ..
        })) => NoAnswer::Empty,
        NetError::Timeout => NoAnswer::Timeout,
        _ => NoAnswer::Failure,
    }
}

/// Addresses of /etc/hosts as replies. They count for as short as possible: the file may change at any time.
fn by_kind(family: Family, ips: &[IpAddr]) -> HostReplies {
    let kinds: &[Kind] = match family {
        Family::Any => &[Kind::V4, Kind::V6],
        Family::Ipv4 => &[Kind::V4],
        Family::Ipv6 => &[Kind::V6],
    };
    let reply = |kind: &Kind| {
        let items: Vec<IpAddr> =
            ips.iter().filter(|ip| ip.is_ipv4() == (*kind == Kind::V4)).copied().collect();
        let found = Found { items, ttl: Duration::ZERO, is_partial: false };
        (*kind, if found.items.is_empty() { Err(NoAnswer::Empty) } else { Ok(found) })
    };
    kinds.iter().map(reply).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::UdpSocket;

    use super::*;

    /// What a DNS server does with a question.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        /// 10.0.0.1
        Address,
        /// NOERROR without a record.
        Nothing,
        /// NXDOMAIN
        NoName,
        /// SERVFAIL
        Failure,
        /// No word.
        Silence,
    }

    async fn dns_server(delay: Duration, says: Says) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let own = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (len, client) = socket.recv_from(&mut buffer).await.unwrap();
                tokio::time::sleep(delay).await;
                // RFC 1035 section 4.1: the header says that it is a response and how it is; one question; what follows it in
                // queries (EDNS) goes.
                let end = 12 + buffer[12..len].iter().position(|byte| *byte == 0).unwrap() + 5;
                let mut reply = buffer[..end].to_vec();
                reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
                match says {
                    Says::Address => {
                        reply[7] = 1;
                        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 10, 0, 0, 1]);
                    }
                    Says::Nothing => {}
                    Says::NoName => reply[3] |= 3,
                    Says::Failure => reply[3] |= 2,
                    Says::Silence => continue,
                }
                socket.send_to(&reply, client).await.unwrap();
            }
        });
        own
    }

    async fn ask_both(first: Says, other: Says) -> Result<Vec<IpAddr>, NoAnswer> {
        let slow = Duration::from_millis(100);
        let servers = vec![dns_server(Duration::ZERO, first).await, dns_server(slow, other).await];
        let timeout = Duration::from_millis(500);
        let settings = config::Resolver { servers, timeout, ..config::Resolver::default() };
        let client = Client { settings, permits: Semaphore::new(1), servers: Mutex::default() };
        client.addresses("web.internal", RecordType::A).await.map(|found| found.items)
    }

    #[tokio::test]
    async fn that_there_is_nothing_counts_only_where_all_say_so() {
        use Says::*;
        let address = || Ok(vec![IpAddr::from([10, 0, 0, 1])]);
        for (first, other, expected) in [
            (NoName, Address, address()),
            (Nothing, Address, address()),
            (Failure, Address, address()),
            (NoName, NoName, Err(NoAnswer::NxDomain)),
            (NoName, Nothing, Err(NoAnswer::Empty)),
            (Nothing, NoName, Err(NoAnswer::Empty)),
            (NoName, Silence, Err(NoAnswer::Doubt)),
            (NoName, Failure, Err(NoAnswer::Doubt)),
            (Failure, NoName, Err(NoAnswer::Doubt)),
            (Nothing, Silence, Err(NoAnswer::Doubt)),
            (Failure, Silence, Err(NoAnswer::Timeout)),
            (Failure, Failure, Err(NoAnswer::Failure)),
        ] {
            assert_eq!(ask_both(first, other).await, expected, "{first:?}, {other:?}");
        }
    }

    #[test]
    fn the_servers_of_the_system() {
        let check = |text: &str, expected: &[&str]| {
            let servers: Vec<String> =
                system_servers(text.as_bytes()).iter().map(ToString::to_string).collect();
            assert_eq!(servers, expected, "{text:?}");
        };
        check("", &["127.0.0.1:53"]);
        check("search example\noptions ndots:5\n", &["127.0.0.1:53"]);
        check("nameserver 10.0.0.53\nnameserver fd00::53\n", &["10.0.0.53:53", "[fd00::53]:53"]);
        check(
            "nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4\n",
            &["1.1.1.1:53", "1.1.1.2:53", "1.1.1.3:53"],
        );
    }
}
