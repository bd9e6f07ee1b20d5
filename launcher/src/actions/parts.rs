//! What a run remembers of its actions, and what differs between those of two runs.

use std::collections::HashMap;

use rift_cas::Store;
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Kept, Observation};
use super::{EntryName, Event, Outcome};

/// The actions of a run. What they are told is mostly the same, and written once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Parts {
    told: Vec<String>,
    /// Told is what has these places in the list of all.
    events: Vec<Event<u32>>,
}

/// One process of a run, from all that was said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its program's name.
    pub program: String,
    /// What tells it from others of its name.
    pub what: String,
    /// What its key is made of, see [`super::key::Key`].
    pub told: Vec<String>,
    /// What became of it last.
    pub outcome: Outcome,
    /// Why it ran, where something was known that did not fit.
    pub differed: Option<String>,
    key: String,
    entry: Option<EntryName>,
}

impl Process {
    /// Names it, for people.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.program, self.what)
    }

    fn entry(&self, store: &Store) -> Option<Entry> {
        Kept::open(store, self.entry.as_ref()?)?.entry().ok()
    }
}

impl Parts {
    /// Takes what was said of a run's actions.
    #[must_use]
    pub fn new(events: &[Event]) -> Self {
        let mut parts = Self::default();
        let mut places: HashMap<&str, u32> = HashMap::new();
        for event in events {
            let mut told = Vec::with_capacity(event.told.len());
            for text in &event.told {
                let next = places.len() as u32;
                let place = *places.entry(text).or_insert(next);
                if place == next {
                    parts.told.push(text.clone());
                }
                told.push(place);
            }
            parts.events.push(Event {
                program: event.program.clone(),
                what: event.what.clone(),
                outcome: event.outcome.clone(),
                key: event.key.clone(),
                told,
                // Of use only while the run goes on.
                unit: None,
                entry: event.entry.clone(),
            });
        }
        parts
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Says what became of each, in the order in which it did.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.events.iter().map(|Event { program, what, outcome, .. }| {
            let how = match outcome {
                Outcome::Reused(cpu_ns) => {
                    format!("its result was reused ({} ms of processor time)", cpu_ns / 1_000_000)
                }
                Outcome::Missed(None) => "it ran: nothing was known of it".to_owned(),
                Outcome::Missed(Some(why)) => format!("it ran: {why}"),
                Outcome::Kept => "its result is kept".to_owned(),
                Outcome::Confirmed => "it ran, and did what is known of it".to_owned(),
                Outcome::Refused(why) => format!("its result is not kept: {why}"),
                Outcome::Mismatch(why) => {
                    format!("it did something else than is known of it: {why}")
                }
            };
            format!("{program} {what}: {how}")
        })
    }

    /// Returns the processes, in the order in which they were first heard of.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        let mut processes: Vec<Process> = Vec::new();
        // Those that ran, and of which more is said when they have ended.
        let mut open: HashMap<&str, Vec<usize>> = HashMap::new();
        for noted in &self.events {
            let is_end = !matches!(noted.outcome, Outcome::Reused(_) | Outcome::Missed(_));
            let begun = if is_end { open.get_mut(&*noted.key).and_then(Vec::pop) } else { None };
            if let Some(process) = begun.and_then(|at| processes.get_mut(at)) {
                process.outcome = noted.outcome.clone();
                process.entry.clone_from(&noted.entry);
                continue;
            }
            let differed = match &noted.outcome {
                Outcome::Missed(why) => {
                    open.entry(&*noted.key).or_default().push(processes.len());
                    why.clone()
                }
                _ => None,
            };
            let told = noted.told.iter().filter_map(|at| self.told.get(*at as usize)).cloned();
            processes.push(Process {
                program: noted.program.clone(),
                what: noted.what.clone(),
                told: told.collect(),
                outcome: noted.outcome.clone(),
                differed,
                key: noted.key.clone(),
                entry: noted.entry.clone(),
            });
        }
        processes
    }

    /// Says what is another in the run after this one: of each process the first thing. Also tells how many are the same.
    #[must_use]
    pub fn differences(&self, after: &Self, store: &Store) -> (Vec<String>, usize) {
        let mut before = self.processes();
        let (mut lines, mut same) = (Vec::new(), 0);
        for process in after.processes() {
            let is_it = |other: &Process| {
                (&other.program, &other.what) == (&process.program, &process.what)
            };
            // The same may run twice, told other things.
            let exact = before.iter().position(|other| is_it(other) && other.key == process.key);
            let Some(at) = exact.or_else(|| before.iter().position(is_it)) else {
                lines.push(format!("{}: it is in the second run only", process.name()));
                continue;
            };
            let other = before.remove(at);
            match difference(&other, &process, store) {
                Some(how) => lines.push(format!("{}: {how}", process.name())),
                None => same += 1,
            }
        }
        let gone = before.iter().map(|process| process.name());
        lines.extend(gone.map(|name| format!("{name}: it is in the first run only")));
        (lines, same)
    }
}

/// Says what is the first thing that another run of a process was told or found otherwise.
fn difference(before: &Process, after: &Process, store: &Store) -> Option<String> {
    if before.key != after.key {
        return Some(told(before, after));
    }
    if before
        .entry
        .as_ref()
        .zip(after.entry.as_ref())
        .is_some_and(|(one, other)| one.is_same(other))
    {
        return None;
    }
    match (before.entry(store), after.entry(store)) {
        (Some(before), Some(after)) => found(&before, &after),
        _ => match (&before.outcome, &after.outcome) {
            (_, Outcome::Refused(why)) => Some(format!("the second time it is not kept: {why}")),
            (Outcome::Refused(why), _) => Some(format!("the first time it was not kept: {why}")),
            (_, Outcome::Mismatch(why)) => Some(format!("it did something else: {why}")),
            // Compared by rift itself.
            (_, Outcome::Confirmed) | (Outcome::Confirmed, _) => None,
            _ => Some("what it found is kept no more".to_owned()),
        },
    }
}

fn told(before: &Process, after: &Process) -> String {
    let parts = |process: &Process| -> Vec<(String, String)> {
        let split = |text: &String| text.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
        process.told.iter().filter_map(split).collect()
    };
    let (before, after) = (parts(before), parts(after));
    for (name, value) in &after {
        match before.iter().find(|(known, _)| known == name) {
            Some((_, known)) if known == value => {}
            // A stream has no name of its own.
            Some(_) if name == "stream" => {}
            Some((_, known)) => return format!("its {name} was `{known}`, then `{value}`"),
            None => return format!("its {name} was not there, then `{value}`"),
        }
    }
    let gone = before.iter().find(|(name, _)| !after.iter().any(|(known, _)| known == name));
    match gone {
        Some((name, value)) => format!("its {name} was `{value}`, then not there"),
        None => "its stdout or stderr was another".to_owned(),
    }
}

fn found(before: &Entry, after: &Entry) -> Option<String> {
    for is in &after.observations {
        let is_it = |was: &&Observation| (&was.path, was.is_itself) == (&is.path, is.is_itself);
        if let Some(was) = before.observations.iter().find(is_it)
            && was != is
        {
            return Some(format!("`{}` {}", shown(&is.path), was.found.differs()));
        }
    }
    let only = |of: &Entry, not: &Entry| {
        let is_new = |one: &&Observation| !not.observations.contains(one);
        of.observations.iter().find(is_new).map(|one| shown(&one.path))
    };
    if let Some(path) = only(after, before) {
        return Some(format!("`{path}` was looked at only the second time"));
    }
    only(before, after).map(|path| format!("`{path}` was looked at only the first time"))
}

/// A path with tokens, for people.
fn shown(path: &str) -> String {
    crate::paths::decoded(path).to_string_lossy().replace('\u{1}', "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(what: &str, outcome: Outcome, told: &[&str]) -> Event {
        Event {
            program: "cc".to_owned(),
            what: what.to_owned(),
            outcome,
            key: told.join(","),
            told: told.iter().map(|text| (*text).to_owned()).collect(),
            unit: None,
            entry: None,
        }
    }

    #[test]
    fn what_is_said_of_a_process_is_put_together() {
        let parts = Parts::new(&[
            event("a", Outcome::Missed(Some("`x` differs".to_owned())), &["word 1=a"]),
            event("b", Outcome::Reused(7), &["word 1=b"]),
            event("a", Outcome::Kept, &["word 1=a"]),
        ]);
        let read: Parts = serde_json::from_slice(&serde_json::to_vec(&parts).unwrap()).unwrap();
        assert_eq!((&read, read.lines().count()), (&parts, 3));
        let [a, b] = &read.processes()[..] else { panic!("{read:?}") };
        assert_eq!((&a.outcome, a.differed.as_deref()), (&Outcome::Kept, Some("`x` differs")));
        let told = &["word 1=b".to_owned()][..];
        assert_eq!((&b.outcome, b.told.as_slice()), (&Outcome::Reused(7), told));
    }

    #[test]
    fn runs_differ_by_what_was_told() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let told = |told: &[&str]| Parts::new(&[event("a", Outcome::Kept, told)]);
        let one = told(&["word 1=-O1", "CPATH=1"]);
        for (other, how) in [
            (&["word 1=-O2", "CPATH=1"][..], "its word 1 was `-O1`, then `-O2`"),
            (&["word 1=-O1", "CPATH=2"], "its CPATH was `1`, then `2`"),
            (&["word 1=-O1"], "its CPATH was `1`, then not there"),
            (&["word 1=-O1", "CPATH=1", "X=3"], "its X was not there, then `3`"),
        ] {
            let (lines, same) = one.differences(&told(other), &store);
            assert_eq!((lines, same), (vec![format!("cc a: {how}")], 0));
        }
        let none = Parts::default();
        assert_eq!(one.differences(&none, &store).0, ["cc a: it is in the first run only"]);
        assert_eq!(none.differences(&one, &store).0, ["cc a: it is in the second run only"]);
    }
}
