//! Lists in one value, with commas between their items.

/// The items, without the spaces around them. Empty ones are none.
pub(super) fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The items, each its own.
pub(super) fn split(list: &str) -> Vec<String> {
    items(list).map(str::to_owned).collect()
}

/// The list as it is kept, with each item in the spelling that `spell` gives it, or nothing if one of them has none.
pub(super) fn normalise(list: &str, spell: impl FnMut(&str) -> Option<String>) -> Option<String> {
    let spelled: Option<Vec<String>> = items(list).map(spell).collect();
    Some(spelled?.join(","))
}
