//! What is known of every key: kept in memory, and where the whole machine is cut off, in a file of another machine too.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{LockResult, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

/// What a key may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    Absent,
    Active,
    View,
    Committed,
}

/// What is known of one key: every state that it may be in, and its committed ancestors, nearest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    pub states: Vec<State>,
    pub chain: Vec<String>,
}

type Keys = BTreeMap<String, Known>;

/// Every key that anybody used.
#[derive(Debug, Default)]
pub struct Book {
    keys: Mutex<Keys>,
    /// One line for each note, synced: of a key's lines the last one counts.
    file: Option<Mutex<File>>,
}

impl Book {
    /// The keys.
    pub fn lock(&self) -> LockResult<MutexGuard<'_, Keys>> {
        self.keys.lock()
    }

    /// Writes down what is known of a key; when it returns the file has it.
    pub fn note(&self, key: &str, states: &[State], chain: &[String]) {
        let known = Known { states: states.to_vec(), chain: chain.to_vec() };
        let mut keys = self.keys.lock().unwrap();
        if let Some(file) = &self.file {
            let mut file = file.lock().unwrap();
            writeln!(file, "{}", line(key, &known)).unwrap();
            file.sync_data().unwrap();
        }
        keys.insert(key.to_owned(), known);
    }

    /// What an earlier boot wrote down; nothing if there was none. The last line may be half.
    pub fn load(path: &Path) -> Book {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines =
            text.lines().filter_map(|line| serde_json::from_str::<(String, Known)>(line).ok());
        Book { keys: Mutex::new(lines.collect()), file: None }
    }

    /// Replaces the file by what is known now, and adds to it from here on.
    pub fn keep_in(&mut self, path: &Path) {
        let beside = path.with_extension("new");
        let mut file = File::create(&beside).unwrap();
        for (key, known) in self.keys.lock().unwrap().iter() {
            writeln!(file, "{}", line(key, known)).unwrap();
        }
        file.sync_all().unwrap();
        std::fs::rename(&beside, path).unwrap();
        self.file = Some(Mutex::new(file));
    }
}

fn line(key: &str, known: &Known) -> String {
    serde_json::to_string(&(key, known)).unwrap()
}
