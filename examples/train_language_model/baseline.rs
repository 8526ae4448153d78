//! What a table of counts says about a byte.

use std::collections::HashMap;

/// How often bytes followed a context: how often each, and how often any.
#[derive(Default)]
struct Followers {
    counts: HashMap<u8, u32>,
    total: u32,
}

/// Counts of bytes alone and after one and two left neighbors.
///
/// The probabilities are interpolated as Witten and Bell do it (1991): where a context was followed by T different bytes in N places,
/// p(byte) = (count + T · p of the shorter context) / (N + T). Below the order 0 lies 1/256 for every byte.
pub(crate) struct Counts {
    /// By the context's bytes, the nearest first; one table for each order.
    tables: [HashMap<Vec<u8>, Followers>; 3],
}

impl Counts {
    /// Counts over a text.
    pub(crate) fn of(text: &[u8]) -> Self {
        let mut tables: [HashMap<Vec<u8>, Followers>; 3] = Default::default();
        for (position, &byte) in text.iter().enumerate() {
            for (order, table) in tables.iter_mut().enumerate().take(position + 1) {
                let followers = table.entry(context(text, position, order)).or_default();
                *followers.counts.entry(byte).or_default() += 1;
                followers.total += 1;
            }
        }
        Self { tables }
    }

    /// The bits that the byte at `position` of a text costs, given its `order` left neighbors, as they really are.
    pub(crate) fn bits(&self, text: &[u8], position: usize, order: usize) -> f64 {
        let mut probability = 1.0 / 256.0;
        for order in 0..=order.min(position) {
            if let Some(followers) = self.tables[order].get(&context(text, position, order)) {
                let count = f64::from(followers.counts.get(&text[position]).copied().unwrap_or(0));
                let different = followers.counts.len() as f64;
                probability = (count + different * probability) / (f64::from(followers.total) + different);
            }
        }
        -probability.log2()
    }
}

fn context(text: &[u8], position: usize, order: usize) -> Vec<u8> {
    text[position - order..position].iter().rev().copied().collect()
}
