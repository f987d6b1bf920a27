//! Taking turns: one at a time on each thin device, and nobody waits for another one's.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::thin::ThinId;

/// One at a time for each thin id; others are not kept waiting.
#[derive(Debug, Default)]
pub(super) struct Turns {
    taken: Mutex<HashSet<ThinId>>,
    given_back: Condvar,
}

/// The right to work on one thin device. Given back when dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    thin: ThinId,
}

impl Turns {
    /// Waits until nobody works on this thin device.
    pub(super) fn take(&self, thin: ThinId) -> Turn<'_> {
        let mut taken = self.taken.lock();
        while !taken.insert(thin) {
            self.given_back.wait(&mut taken);
        }
        Turn { turns: self, thin }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.taken.lock().remove(&self.thin);
        self.turns.given_back.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_keeps_others_off_the_same_thin_device_only() {
        let (turns, one, two) =
            (Turns::default(), ThinId::new(1).unwrap(), ThinId::new(2).unwrap());
        let first = turns.take(one);
        drop(turns.take(two));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| drop(turns.take(one)));
            assert!(!waiting.is_finished());
            drop(first);
        });
    }
}
