//! What a `DelayChannel` knows without Luau: which item expires when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

/// Items in one channel.
pub const ITEMS_MAX: usize = 10_000;

/// One item, among all that its channel has ever had.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    number: u64,
    /// Where the value of the item is; another item may have it later.
    pub slot: u32,
}

#[derive(Default)]
pub struct Items {
    /// What expires next is the greatest; items that are gone stay in it for a while.
    heap: BinaryHeap<Reverse<(Instant, Key)>>,
    /// The number of the item that has each slot, 0 for none.
    slots: Vec<u64>,
    free: Vec<u32>,
    count: u64,
}

impl Items {
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// A new item, if there is room for one.
    pub fn add(&mut self, at: Instant) -> Option<Key> {
        if self.len() >= ITEMS_MAX {
            return None;
        }
        if self.heap.len() >= 2 * ITEMS_MAX {
            let slots = &self.slots;
            self.heap.retain(|Reverse((_, key))| slots[key.slot as usize] == key.number);
        }
        self.count += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(0);
            self.slots.len() as u32 - 1
        });
        let key = Key { number: self.count, slot };
        self.slots[slot as usize] = key.number;
        self.heap.push(Reverse((at, key)));
        Some(key)
    }

    /// When the next item expires.
    pub fn next(&mut self) -> Option<(Instant, Key)> {
        while let Some(Reverse((at, key))) = self.heap.peek().copied() {
            if self.has(key) {
                return Some((at, key));
            }
            self.heap.pop();
        }
        None
    }

    fn has(&self, key: Key) -> bool {
        self.slots.get(key.slot as usize) == Some(&key.number)
    }

    /// Takes an item out; false if it is gone already.
    pub fn remove(&mut self, key: Key) -> bool {
        let had = self.has(key);
        if had {
            self.slots[key.slot as usize] = 0;
            self.free.push(key.slot);
        }
        had
    }

    /// Slots keep their length, so that keys of before stay unknown.
    pub fn clear(&mut self) {
        self.heap.clear();
        self.slots.fill(0);
        self.free = (0..self.slots.len() as u32).collect();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn items_leave_in_the_order_of_their_times_and_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut items = Items::default();
        let keys: Vec<_> = [30, 10, 20, 10].map(|ms| items.add(at(ms))).into_iter().flatten().collect();
        assert_eq!(items.next(), Some((at(10), keys[1])));
        assert!(items.remove(keys[1]) && !items.remove(keys[1]));
        assert_eq!(items.next(), Some((at(10), keys[3])));
        assert!(items.remove(keys[3]) && items.remove(keys[2]));
        let again = items.add(at(5)).unwrap();
        assert_eq!((again.slot, items.len()), (keys[2].slot, 2));
        assert!(!items.remove(keys[2]), "its slot belongs to another item");
        items.clear();
        assert_eq!((items.next(), items.len()), (None, 0));
        assert!(!items.remove(again) && !items.remove(keys[0]));
    }

    #[test]
    fn a_channel_is_bounded_whatever_is_cancelled() {
        let mut items = Items::default();
        let later = Instant::now() + Duration::from_secs(9);
        for _ in 0..5 * ITEMS_MAX {
            let key = items.add(later).unwrap();
            assert!(items.remove(key));
        }
        assert!(items.heap.len() <= 2 * ITEMS_MAX && items.slots.len() == 1);
        for _ in 0..ITEMS_MAX {
            assert!(items.add(later).is_some());
        }
        assert!(items.add(later).is_none());
    }
}
