//! A table: a command, and what must be seen of it.
//!
//! ```text
//! security group rule create web --protocol icmp = rule   | ping+ tcp-      which traffic passes and which does not, a second later
//! security group rule delete $rule                        | ping-
//! network show blue                                       | mtu=1400        a field of the answer
//! port show a                                             | ?status=ACTIVE  the same, asked for until it holds
//! port show a                                             | tags~red        a part of a field
//! loadbalancer stats show lb                              | bytes_in>0      a field that is a larger number
//! network list                                            | has=blue lacks=red
//! network delete blue                                     | refused=409     it fails, and these words are in the complaint
//! ```
//! `= NAME` keeps the answer's id for `$NAME`; `= NAME of CELL` that of a list's first row with such a cell. All of a second counts from the API's answer.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Answer, Client, Watch};
use crate::netns;

/// What a change may take from the API's answer to changed traffic.
const LIMIT: Duration = Duration::from_secs(1);
/// What a fact with a question mark may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client, what it made, and the traffic that is watched.
#[derive(Debug)]
pub struct Script {
    client: Client,
    kept: BTreeMap<String, String>,
    watched: BTreeMap<&'static str, (Watch, Option<bool>)>,
    /// Each change of traffic, and how long it took.
    pub delays: Vec<(String, Duration)>,
}

impl Script {
    /// With a client.
    pub const fn new(client: Client) -> Self {
        Self {
            client,
            kept: BTreeMap::new(),
            watched: BTreeMap::new(),
            delays: vec![],
        }
    }

    /// Watches traffic under a name that rows use; it replaces what had that name.
    pub fn watch(&mut self, name: &'static str, watch: Watch) {
        self.watched.insert(name, (watch, None));
    }

    /// Ends a watch.
    pub fn forget(&mut self, name: &str) {
        self.watched.remove(name);
    }

    /// What was kept by a name.
    pub fn kept(&self, name: &str) -> &str {
        let kept = self.kept.get(name);
        kept.unwrap_or_else(|| panic!("nothing was kept as {name}"))
    }

    /// Another one keeps what this one kept.
    pub fn keep(&mut self, name: &str, id: &str) {
        self.kept.insert(name.into(), id.into());
    }

    /// Plays a table of `tests/openstack`.
    ///
    /// # Panics
    /// At the first row that does not hold.
    pub fn play(&mut self, table: &str) {
        let file = netns::repository().join(format!("tests/openstack/{table}.table"));
        let rows = fs::read_to_string(&file).unwrap();
        for row in rows.lines().map(str::trim) {
            if !row.is_empty() && !row.starts_with('#') {
                self.row(row);
            }
        }
    }

    /// Plays one row.
    ///
    /// # Panics
    /// If it does not hold.
    pub fn row(&mut self, row: &str) {
        let (said, facts) = row.split_once(" | ").unwrap_or((row, ""));
        let (said, keep) = match said.rsplit_once(" = ") {
            Some((said, keep)) => (said, Some(keep.trim())),
            None => (said, None),
        };
        let answer = self.say(said);
        let facts = self.filled(facts);
        let facts: Vec<&str> = facts.split_whitespace().collect();
        let refused = facts.iter().find_map(|fact| fact.strip_prefix("refused="));
        match refused {
            Some(words) => assert!(
                answer.code != 0 && answer.err.contains(words),
                "{row}: not refused so:\n{}{}",
                answer.out,
                answer.err
            ),
            None => assert!(
                answer.code == 0,
                "{row}: failed:\n{}{}",
                answer.out,
                answer.err
            ),
        }
        if let Some(keep) = keep {
            let (name, cell) = keep
                .split_once(" of ")
                .map_or((keep, None), |(n, c)| (n, Some(c)));
            let id = id(&answer.json(), cell);
            let id = id.unwrap_or_else(|| panic!("{row}: no id in {}", answer.out));
            self.kept.insert(name.into(), id);
        }
        let later = facts.iter().filter_map(|fact| fact.strip_prefix('?'));
        for fact in later {
            self.comes(row, said, fact, answer.at);
        }
        let now = |fact: &&&str| !fact.starts_with("refused=") && !fact.starts_with('?');
        for fact in facts.iter().filter(now) {
            match (fact.strip_suffix('+'), fact.strip_suffix('-')) {
                (Some(watch), _) => self.traffic(row, watch, true, &answer),
                (_, Some(watch)) => self.traffic(row, watch, false, &answer),
                _ => Self::holds(row, fact, &answer),
            }
        }
    }

    /// A text with what was kept in place of its names; of two, the longer name first.
    fn filled(&self, text: &str) -> String {
        let kept = self.kept.iter().rev();
        kept.fold(text.to_owned(), |text, (name, id)| {
            text.replace(&format!("${name}"), id)
        })
    }

    /// Says a command, with what was kept in place of its names.
    pub fn say(&mut self, said: &str) -> Answer {
        let said = self.filled(said.trim());
        // A request's body is one word, and JSON.
        if let Some(rest) = said.strip_prefix("rest ") {
            let mut words = rest.splitn(3, ' ');
            let (method, path) = (words.next().unwrap(), words.next().unwrap());
            let body: Value = words
                .next()
                .map_or(Value::Null, |body| serde_json::from_str(body).unwrap());
            return self.client.say(&json!(["rest", method, path, body]));
        }
        let mut words: Vec<&str> = said.split_whitespace().collect();
        let shows =
            |word: &&str| ["create", "get", "issue", "list", "show", "store"].contains(word);
        if words
            .iter()
            .take_while(|word| !word.starts_with("--"))
            .any(shows)
        {
            words.extend(["-f", "json"]);
        }
        self.client.say(&json!(words))
    }

    fn traffic(&mut self, row: &str, name: &str, passes: bool, answer: &Answer) {
        let watched = self.watched.get_mut(name);
        let (watch, before) = watched.unwrap_or_else(|| panic!("{row}: nobody watches {name}"));
        let verb = if passes { "passes" } else { "stops" };
        let delay = watch.settles(passes, answer.at, LIMIT);
        let delay = delay.unwrap_or_else(|| panic!("{row}: not within {LIMIT:?}: {name} {verb}"));
        if before.replace(passes) != Some(passes) {
            let command = row.split(" | ").next().unwrap_or(row).trim();
            self.delays
                .push((format!("{name} {verb}: {command}"), delay));
        }
    }

    /// Asks until it holds.
    fn comes(&mut self, row: &str, said: &str, fact: &str, since: Instant) {
        while !Self::is_so(row, fact, &self.say(said)) {
            let waited = since.elapsed();
            assert!(
                waited < PATIENCE,
                "{row}: {fact} did not come in {waited:?}"
            );
        }
    }

    fn holds(row: &str, fact: &str, answer: &Answer) {
        let json = answer.json();
        assert!(
            Self::is_so(row, fact, answer),
            "{row}: {fact} does not hold of {json}"
        );
    }

    fn is_so(row: &str, fact: &str, answer: &Answer) -> bool {
        let json = answer.json();
        let named = |name: &str| {
            let rows = json
                .as_array()
                .unwrap_or_else(|| panic!("{row}: no list: {json}"));
            rows.iter().any(|row| has(row, name))
        };
        if let Some(name) = fact.strip_prefix("has=") {
            named(name)
        } else if let Some(name) = fact.strip_prefix("lacks=") {
            !named(name)
        } else if let Some((key, least)) = fact.split_once('>') {
            let number = |text: &str| text.parse::<u64>().ok();
            number(&field(&json, key)) > number(least)
        } else if let Some((key, part)) = fact.split_once('~') {
            field(&json, key).contains(part)
        } else {
            let (key, value) = fact
                .split_once('=')
                .unwrap_or_else(|| panic!("{row}: what is {fact}?"));
            field(&json, key) == value
        }
    }

    /// The measured delays, as a table.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (what, delay) in &self.delays {
            writeln!(text, "{:>5} ms  {what}", delay.as_millis()).unwrap();
        }
        text
    }
}

/// The id that an answer holds, or the reference: a resource's own, that of a list's first row with such a cell, or that of what a request's
/// body holds.
fn id(json: &Value, cell: Option<&str>) -> Option<String> {
    let fits = |row: &&Value| cell.is_none_or(|cell| has(row, cell));
    let json = json
        .as_array()
        .map_or(Some(json), |rows| rows.iter().find(fits))?;
    let names = ["id", "ID", "Secret href", "Container href"];
    let own = names.iter().find_map(|name| json.get(name));
    let inner = || json.as_object()?.values().find_map(|inner| inner.get("id"));
    own.or_else(inner)?.as_str().map(str::to_owned)
}

/// Does a row of a list have such a cell?
fn has(row: &Value, cell: &str) -> bool {
    row.as_object()
        .is_some_and(|row| row.values().any(|value| plain(value) == cell))
}

/// A field of an answer; the columns of networking-sfc have blanks in their names.
fn field(json: &Value, key: &str) -> String {
    let value = json.get(key).or_else(|| json.get(key.replace('_', " ")));
    plain(value.unwrap_or_else(|| panic!("no {key} in {json}")))
}

/// A value as the client's tables show it.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
