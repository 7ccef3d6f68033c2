//! Whether a key comes twice: cheap for the few keys of a line, and not quadratic for the many of a hostile one.

use std::collections::HashSet;

use smallvec::SmallVec;

/// Up to so many keys are compared with each other, mostly by their lengths: some 500 comparisons of
/// two numbers take less than hashing 32 texts.
const COMPARED_MAX: usize = 32;

/// The keys of one line, as they come. Two spellings of one key do not exist: exactly the delimiters in it have a backslash.
#[derive(Default)]
struct Keys<'a> {
    compared: SmallVec<[&'a str; COMPARED_MAX]>,
    /// All of them, once there are more.
    hashed: Option<HashSet<&'a str>>,
}

impl<'a> Keys<'a> {
    /// Adds a key; `false` if it is there already.
    #[inline]
    fn insert(&mut self, key: &'a str) -> bool {
        if self.compared.len() == COMPARED_MAX {
            return self.insert_hashed(key);
        }
        if self.compared.iter().any(|other| alike(other, key)) {
            return false;
        }
        self.compared.push(key);
        true
    }

    #[cold]
    fn insert_hashed(&mut self, key: &'a str) -> bool {
        let compared = &self.compared;
        self.hashed.get_or_insert_with(|| compared.iter().copied().collect()).insert(key)
    }
}

/// Names of one family begin alike, so the last byte is looked at before all of them.
#[inline]
fn alike(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.as_bytes().last() == other.as_bytes().last() && one == other
}

/// The first key that comes a second time, with its place.
pub(in crate::proto) fn repeated<'a>(keys: impl IntoIterator<Item = &'a str>) -> Option<(usize, &'a str)> {
    let mut seen = Keys::default();
    keys.into_iter().enumerate().find(|(_, key)| !seen.insert(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_key_that_comes_again_is_found_among_few_and_many() {
        for count in [1usize, 2, COMPARED_MAX - 1, COMPARED_MAX, COMPARED_MAX + 1, 1000] {
            let keys: Vec<String> = (0..count).map(|number| format!("key-{number}")).collect();
            let all = || keys.iter().map(String::as_str);
            assert_eq!(repeated(all()), None, "{count}");
            for again in [0, count / 2, count - 1] {
                let key = &*keys[again];
                assert_eq!(repeated(all().chain([key, "other"])), Some((count, key)), "{again} of {count}");
            }
        }
        assert_eq!(repeated(["", "a", "b", ""]), Some((3, "")));
    }
}
