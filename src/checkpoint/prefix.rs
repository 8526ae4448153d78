//! Names that differ from those of a model by what a wrapper or a training framework put into them.

use std::collections::{BTreeMap, BTreeSet};

/// Modules that wrap another one, or one within it, and the part that they add to the names.
const WRAPPERS: [(&str, &str); 3] = [
    ("module", "DistributedDataParallel, DataParallel and AveragedModel put it there"),
    ("_orig_mod", "torch.compile puts it there"),
    ("_fsdp_wrapped_module", "FullyShardedDataParallel puts it there"),
];

/// The longest path whose ends are compared with the missing names.
const DEEPEST: usize = 64;

/// A sentence about what `left` names have and `missing` ones lack, where that explains at least half of those that are missing.
pub(crate) fn explained(missing: &[String], left: &[&str]) -> Option<String> {
    let missing: BTreeSet<&str> = missing.iter().map(String::as_str).collect();
    let mut found: BTreeMap<(Vec<&str>, String), usize> = BTreeMap::new();
    for name in left {
        let (inside, plain) = unwrapped(name);
        let front = if missing.contains(plain.as_str()) {
            Some("")
        } else {
            front(&plain, &missing)
        };
        if let Some(front) = front.filter(|front| !front.is_empty() || !inside.is_empty()) {
            *found.entry((inside, front.to_owned())).or_default() += 1;
        }
    }
    let ((inside, front), count) = found.into_iter().max_by_key(|(_, count)| *count)?;
    (2 * count >= missing.len()).then(|| sentence(&inside, &front, count))
}

/// Which wrappers' parts a name has, and the name without them.
fn unwrapped(name: &str) -> (Vec<&'static str>, String) {
    let mut inside = Vec::new();
    let mut kept = Vec::new();
    for part in name.split('.') {
        match WRAPPERS.iter().find(|(wrapper, _)| *wrapper == part) {
            Some((wrapper, _)) if !inside.contains(wrapper) => inside.push(*wrapper),
            Some(_) => {}
            None => kept.push(part),
        }
    }
    (inside, kept.join("."))
}

/// The prefix of `name`, if `name` ends with a missing name.
fn front<'n>(name: &'n str, missing: &BTreeSet<&str>) -> Option<&'n str> {
    let dots = name.match_indices('.').take(DEEPEST);
    let mut starts = dots.map(|(dot, _)| dot + 1);
    starts.find(|&start| missing.contains(&name[start..])).map(|start| &name[..start])
}

fn sentence(inside: &[&str], front: &str, count: usize) -> String {
    let mut additions = Vec::new();
    if !front.is_empty() {
        additions.push(format!("begin with `{front}`"));
    }
    for (wrapper, who) in WRAPPERS.iter().filter(|(wrapper, _)| inside.contains(wrapper)) {
        additions.push(format!("have `{wrapper}.` in them ({who})"));
    }
    let noun = if count == 1 { "tensor" } else { "tensors" };
    format!(
        "the names of {count} {noun} {}, and would fit without: tools/export_checkpoint.py takes this off, or insert them under the shorter names",
        additions.join(" and ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_prefix_is_found_before_and_inside() {
        let missing = names(&["net.0.weight", "net.0.bias", "head.weight"]);
        for (left, expected) in [
            (
                ["model.net.0.weight", "model.net.0.bias", "criterion.weight"],
                "begin with `model.`",
            ),
            (
                ["module.net.0.weight", "module.net.0.bias", "n_averaged"],
                "have `module.` in them (Dist",
            ),
            (
                ["net._orig_mod.0.weight", "net._orig_mod.0.bias", "x"],
                "have `_orig_mod.` in them (torch.compile",
            ),
            (
                ["a.b.net.module.0.weight", "a.b.net.module.0.bias", "x"],
                "begin with `a.b.` and have `module.`",
            ),
        ] {
            let sentence = explained(&missing, &left).expect("most names would fit");
            assert!(sentence.contains(expected) && sentence.contains("of 2 tensors"), "{sentence}");
        }
    }

    #[test]
    fn names_that_only_differ_are_not_explained() {
        let missing = names(&["net.0.weight", "net.0.bias", "head.weight"]);
        assert_eq!(explained(&missing, &["other.0.weight", "bias", ""]), None);
        assert_eq!(explained(&missing, &["model.head.weight"]), None);
        assert_eq!(explained(&[], &["model.head.weight"]), None);
        assert_eq!(explained(&missing, &[]), None);
        let deep = ".".repeat(1 << 20);
        assert_eq!(explained(&missing, &[&deep]), None);
    }
}
