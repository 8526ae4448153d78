//! What a text becomes.

use std::ops::Range;

use tokenizers::Encoding;

/// The tokens of a text, or of a pair of texts, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    ids: Vec<usize>,
    types: Vec<usize>,
    places: Vec<Place>,
}

/// Where a token is from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// The tokenizer has added it.
    Special,
    /// Bytes of the first or of the second text.
    Text { second: bool, bytes: Range<usize> },
}

impl Tokens {
    /// The tokens of an encoding that counts characters of these texts.
    pub(crate) fn of(encoding: &Encoding, texts: [&str; 2]) -> Self {
        let widened = |numbers: &[u32]| numbers.iter().map(|&number| number as usize).collect();
        let bytes = texts.map(places_of_characters);
        let sequences = encoding.get_sequence_ids();
        let marks = encoding.get_special_tokens_mask().iter().zip(encoding.get_offsets());
        let place = |((&special, &(start, end)), sequence): ((&u32, &(usize, usize)), Option<usize>)| {
            if special != 0 {
                return Place::Special;
            }
            let second = sequence == Some(1);
            let place = |character: usize| {
                let own = &bytes[usize::from(second)];
                own.get(character).or(own.last()).copied().unwrap_or(0)
            };
            Place::Text {
                second,
                bytes: place(start)..place(end),
            }
        };
        Self {
            ids: widened(encoding.get_ids()),
            types: widened(encoding.get_type_ids()),
            places: marks.zip(sequences).map(place).collect(),
        }
    }

    /// Returns the number of tokens, special ones included.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Returns whether there is no token, not even a special one.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Returns the ids.
    pub fn ids(&self) -> &[usize] {
        &self.ids
    }

    /// Returns the type of each token: 0, or 1 in the second text of a pair where the tokenizer says so.
    pub fn types(&self) -> &[usize] {
        &self.types
    }

    /// Returns whether the tokenizer has added the token, as `[CLS]` and `[SEP]`; anything beyond the last token is not special.
    pub fn is_special(&self, token: usize) -> bool {
        self.places.get(token) == Some(&Place::Special)
    }

    /// Returns the bytes of the first text that a token was made of, or `None` for special tokens and those of a second text.
    pub fn bytes(&self, token: usize) -> Option<Range<usize>> {
        match self.places.get(token)? {
            Place::Text { second: false, bytes } => Some(bytes.clone()),
            _ => None,
        }
    }

    /// The numbers of tokens of the first and of the second text, without special ones.
    pub(crate) fn content(&self) -> (usize, usize) {
        let of_second = |place: &&Place| matches!(place, Place::Text { second: true, .. });
        let second = self.places.iter().filter(of_second).count();
        (self.len() - self.special() - second, second)
    }

    /// The number of special tokens.
    pub(crate) fn special(&self) -> usize {
        self.places.iter().filter(|&place| *place == Place::Special).count()
    }

    /// Where the tokens that are not special are, if nothing special is between them.
    pub(crate) fn frame(&self) -> Option<Range<usize>> {
        let is_text = |place: &Place| *place != Place::Special;
        let first = self.places.iter().position(is_text)?;
        let last = self.places.iter().rposition(is_text)?;
        let content = first..last + 1;
        (content.len() + self.special() == self.len()).then_some(content)
    }

    /// What [`part`](Self::part) gives of one text, for a text with this [`frame`](Self::frame): without a look at all other tokens.
    pub(crate) fn window(&self, frame: &Range<usize>, part: Range<usize>) -> Self {
        let end = |index: usize| frame.start.saturating_add(index).min(frame.end);
        let ranges = [0..frame.start, end(part.start)..end(part.end), frame.end..self.len()];
        let mut window = Self::default();
        for range in ranges {
            window.ids.extend_from_slice(&self.ids[range.clone()]);
            window.types.extend_from_slice(&self.types[range.clone()]);
            window.places.extend_from_slice(&self.places[range]);
        }
        window
    }

    /// The special tokens, and of each text the tokens with these indices in it.
    pub(crate) fn part(&self, first: Range<usize>, second: Range<usize>) -> Self {
        let mut part = Self::default();
        let mut seen = (0, 0);
        for ((&id, &kind), place) in self.ids.iter().zip(&self.types).zip(&self.places) {
            let (kept, seen) = match place {
                Place::Special => (true, None),
                Place::Text { second: false, .. } => (first.contains(&seen.0), Some(&mut seen.0)),
                Place::Text { second: true, .. } => (second.contains(&seen.1), Some(&mut seen.1)),
            };
            if let Some(seen) = seen {
                *seen += 1;
            }
            if kept {
                part.ids.push(id);
                part.types.push(kind);
                part.places.push(place.clone());
            }
        }
        part
    }
}

/// The first byte of each character, and that after the last.
fn places_of_characters(text: &str) -> Vec<usize> {
    text.char_indices().map(|(place, _)| place).chain([text.len()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_the_part_of_one_text() {
        let place = |special: bool| {
            if special {
                Place::Special
            } else {
                Place::Text {
                    second: false,
                    bytes: 0..1,
                }
            }
        };
        for framed in [vec![true, false, false, false, true, true], vec![false, false], vec![true, false]] {
            let tokens = Tokens {
                ids: (0..framed.len()).collect(),
                types: vec![0; framed.len()],
                places: framed.iter().map(|&special| place(special)).collect(),
            };
            let frame = tokens.frame().unwrap();
            for (start, end) in [(0, 2), (1, 2), (1, 9), (0, 0), (7, 9)] {
                assert_eq!(
                    tokens.window(&frame, start..end),
                    tokens.part(start..end, 0..0),
                    "{framed:?} {start}..{end}"
                );
            }
        }
        let scattered = Tokens {
            ids: vec![1, 2, 3],
            types: vec![0; 3],
            places: [false, true, false].map(place).to_vec(),
        };
        assert_eq!((scattered.frame(), Tokens::default().frame()), (None, None));
    }
}
