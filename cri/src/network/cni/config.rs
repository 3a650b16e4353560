//! CNI network configurations: which file counts, and what is in it (CNI specification 1.1,
//! section 1).

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// Versions that we speak, the oldest first.
const VERSIONS: &[&str] = &[
    "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0",
];
/// Longest configuration file, in bytes.
const LONGEST: u64 = 1 << 20;

/// A network: a list of plugins to be run one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The version that results have.
    pub version: String,
    /// CHECK must not be called.
    pub disable_check: bool,
    /// GC must not be called.
    pub disable_gc: bool,
    /// At least one.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// File name of its program.
    pub program: String,
    /// Its configuration as written.
    pub config: Map<String, Value>,
}

impl Network {
    /// The network of the first configuration file by name; none where there is no such file.
    pub fn load(directory: &Path) -> Result<Option<Self>> {
        let Some(path) = first_file(directory)? else {
            return Ok(None);
        };
        let parse = || {
            let length = fs::metadata(&path)?.len();
            ensure!(
                length <= LONGEST,
                "{length} bytes: at most {LONGEST} are read"
            );
            let value = serde_json::from_slice(&fs::read(&path)?)?;
            Self::parse(value)
        };
        let network = parse().with_context(|| format!("CNI configuration {}", path.display()))?;
        Ok(Some(network))
    }

    /// Takes a configuration list, or the configuration of a single plugin, apart.
    pub fn parse(value: Value) -> Result<Self> {
        let Value::Object(mut list) = value else {
            bail!("expected a JSON object");
        };
        let name = text(&list, "name")?.context("it has no name")?;
        check_name(&name)?;
        let version = version(&list)?;
        let flag = |key| list.get(key).is_some_and(|v| v == true || v == "true");
        let (disable_check, disable_gc) = (flag("disableCheck"), flag("disableGC"));
        let plugins = match list.remove("plugins") {
            Some(Value::Array(plugins)) => plugins,
            Some(_) => bail!("plugins: expected a list"),
            None => vec![Value::Object(list)],
        };
        ensure!(!plugins.is_empty(), "plugins: the list is empty");
        let plugins = plugins.into_iter().enumerate().map(|(index, plugin)| {
            Plugin::parse(plugin).with_context(|| format!("plugins[{index}]"))
        });
        let plugins = plugins.collect::<Result<_>>()?;
        Ok(Self {
            name,
            version,
            disable_check,
            disable_gc,
            plugins,
        })
    }

    /// The configuration list that gives this network again.
    pub fn to_value(&self) -> Value {
        let plugins: Vec<_> = self.plugins.iter().map(|plugin| &plugin.config).collect();
        json!({
            "cniVersion": self.version,
            "name": self.name,
            "disableCheck": self.disable_check,
            "disableGC": self.disable_gc,
            "plugins": plugins,
        })
    }

    /// Whether the network's version is `version` or later.
    pub fn is_at_least(&self, version: &str) -> bool {
        let rank = |wanted: &str| VERSIONS.iter().position(|known| *known == wanted);
        rank(&self.version) >= rank(version)
    }
}

impl Plugin {
    fn parse(value: Value) -> Result<Self> {
        let Value::Object(config) = value else {
            bail!("expected a JSON object");
        };
        let program = text(&config, "type")?.context("it has no type")?;
        ensure!(
            !program.is_empty() && !program.contains('/') && program != "..",
            "type {program:?}: expected the file name of a plugin"
        );
        Ok(Self { program, config })
    }

    /// What the plugin is given on its standard input: its configuration with the network's name
    /// and version, the capabilities that it asks for, and the result of the plugin before.
    pub fn input(
        &self,
        network: &Network,
        capabilities: &Map<String, Value>,
        previous: Option<&Value>,
    ) -> Value {
        let mut input = self.config.clone();
        input.insert("name".into(), json!(network.name));
        input.insert("cniVersion".into(), json!(network.version));
        let wanted = |name: &String| {
            let asked = self
                .config
                .get("capabilities")
                .and_then(|all| all.get(name));
            asked.is_some_and(|asked| asked == true)
        };
        let given = capabilities.iter().filter(|(name, _)| wanted(name));
        let given: Map<_, _> = given
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !given.is_empty() {
            input.insert("runtimeConfig".into(), Value::Object(given));
        }
        match previous {
            Some(result) => input.insert("prevResult".into(), result.clone()),
            None => input.remove("prevResult"),
        };
        Value::Object(input)
    }
}

fn text(object: &Map<String, Value>, key: &str) -> Result<Option<String>> {
    match object.get(key) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => bail!("{key}: expected a string, not {other}"),
    }
}

/// Section 1.1: a letter or digit, then letters, digits, underscores, dots and hyphens.
fn check_name(name: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    ensure!(
        name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(plain),
        "name {name:?}: expected letters, digits, _, . and -"
    );
    Ok(())
}

/// The newest of `cniVersions` that we know, else `cniVersion`.
fn version(list: &Map<String, Value>) -> Result<String> {
    let several = list.get("cniVersions").and_then(Value::as_array);
    let newest = VERSIONS.iter().rev().find(|known| {
        several.is_some_and(|several| several.iter().any(|version| version == **known))
    });
    if let Some(newest) = newest {
        return Ok((*newest).to_owned());
    }
    let version = text(list, "cniVersion")?.unwrap_or_else(|| VERSIONS[0].to_owned());
    ensure!(
        VERSIONS.contains(&version.as_str()),
        "cniVersion {version:?} is not known: expected one of {VERSIONS:?}"
    );
    Ok(version)
}

fn first_file(directory: &Path) -> Result<Option<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("list {}", directory.display())),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry
            .with_context(|| format!("list {}", directory.display()))?
            .path();
        let extension = path.extension().and_then(|extension| extension.to_str());
        if matches!(extension, Some("conflist" | "conf" | "json")) && path.is_file() {
            files.push(path);
        }
    }
    Ok(files.into_iter().min())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: Value) -> Result<Network> {
        Network::parse(value)
    }

    #[test]
    fn a_single_plugin_is_a_list_of_one() {
        let one = json!({"cniVersion": "0.4.0", "name": "n", "type": "bridge", "mtu": 1400});
        let network = parse(one).unwrap();
        assert_eq!(network.plugins[0].program, "bridge");
        assert_eq!(network.plugins[0].config["mtu"], 1400);
        assert!(network.is_at_least("0.4.0") && !network.is_at_least("1.0.0"));
    }

    #[test]
    fn a_network_survives_being_stored() {
        let network = parse(json!({
            "cniVersions": ["0.4.0", "1.1.0", "9.0.0"], "name": "n", "disableCheck": true,
            "plugins": [{"type": "a", "x": 1}, {"type": "b"}],
        }))
        .unwrap();
        assert_eq!(network.version, "1.1.0");
        assert_eq!(parse(network.to_value()).unwrap(), network);
    }

    #[test]
    fn mistakes_are_named() {
        let says = |value: Value| format!("{:#}", parse(value).unwrap_err());
        assert!(says(json!([])).contains("object"));
        assert!(says(json!({"type": "a"})).contains("no name"));
        assert!(says(json!({"name": "../n", "type": "a"})).contains("../n"));
        assert!(says(json!({"name": "n", "type": "a/b"})).contains("a/b"));
        assert!(says(json!({"name": "n", "plugins": []})).contains("empty"));
        assert!(says(json!({"name": "n", "plugins": [{}]})).contains("plugins[0]"));
        assert!(says(json!({"name": "n", "cniVersion": "7", "type": "a"})).contains("\"7\""));
    }

    #[test]
    fn a_plugin_gets_the_capabilities_that_it_asks_for() {
        let network = parse(json!({"cniVersion": "1.0.0", "name": "n", "plugins": [
            {"type": "a", "capabilities": {"portMappings": true, "dns": false}},
            {"type": "b"},
        ]}))
        .unwrap();
        let Value::Object(all) = json!({"portMappings": [1], "dns": {}, "bandwidth": {}}) else {
            unreachable!()
        };
        let previous = json!({"ips": []});
        let first = network.plugins[0].input(&network, &all, None);
        assert_eq!(first["runtimeConfig"], json!({"portMappings": [1]}));
        assert_eq!(
            (&first["name"], first.get("prevResult")),
            (&json!("n"), None)
        );
        let second = network.plugins[1].input(&network, &all, Some(&previous));
        assert_eq!(
            (second.get("runtimeConfig"), &second["prevResult"]),
            (None, &previous)
        );
    }

    #[test]
    fn the_first_file_by_name_counts() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        assert_eq!(Network::load(directory.path()).unwrap(), None);
        assert_eq!(Network::load(&path("none")).unwrap(), None);
        fs::write(path("00-readme.txt"), "x").unwrap();
        fs::write(path("20-b.conf"), r#"{"name": "b", "type": "b"}"#).unwrap();
        fs::write(
            path("10-a.conflist"),
            r#"{"name": "a", "plugins": [{"type": "a"}]}"#,
        )
        .unwrap();
        assert_eq!(Network::load(directory.path()).unwrap().unwrap().name, "a");
        fs::write(path("05-broken.conf"), "{").unwrap();
        let error = Network::load(directory.path()).unwrap_err();
        assert!(format!("{error:#}").contains("05-broken.conf"), "{error:#}");
    }
}
