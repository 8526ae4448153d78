// The texts that tools/make_tokenizers.py generates.

use serde_json::Value;

pub const COUNT: usize = 600;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % bound as u64).unwrap()
    }

    fn choose<'v>(&mut self, items: &'v Value) -> &'v Value {
        let items = items.as_array().unwrap();
        &items[self.below(items.len())]
    }

    fn word(&mut self, scripts: &Value, own: usize) -> String {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let script = &scripts["scripts"][own];
        match self.below(20) {
            0 => (0..=self.below(6)).map(|_| self.character(script)).collect(),
            1 => text(self.choose(&scripts["emoji"])),
            2 => {
                let mut word = text(self.choose(&script["words"]));
                word.push(character(self.choose(&scripts["marks"]).as_u64().unwrap()));
                word
            }
            3 => text(self.choose(&scripts["literals"])),
            4 => {
                let script = self.choose(&scripts["scripts"]);
                text(self.choose(&script["words"]))
            }
            5 => text(self.choose(&scripts["extras"])),
            _ => text(self.choose(&script["words"])),
        }
    }

    fn character(&mut self, script: &Value) -> char {
        let range = self.choose(&script["ranges"]);
        let (first, last) = (range[0].as_u64().unwrap(), range[1].as_u64().unwrap());
        let offset = self.below(usize::try_from(last - first + 1).unwrap());
        character(first + offset as u64)
    }
}

fn character(code: u64) -> char {
    char::from_u32(u32::try_from(code).unwrap()).unwrap()
}

/// Words of ten scripts with emoji, combining marks, odd white space and the names of special tokens among them; an empty text and one of white space.
pub fn texts() -> Vec<String> {
    let scripts: Value = serde_json::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/scripts.json"))).unwrap();
    let count = scripts["scripts"].as_array().unwrap().len();
    let mut random = Random(2026);
    let mut texts = vec![String::new(), " \t\n".to_owned()];
    for index in 2..COUNT {
        let mut text = String::new();
        for _ in 0..=random.below(14) {
            text.push_str(&random.word(&scripts, index % count));
            text.push_str(random.choose(&scripts["spaces"]).as_str().unwrap());
        }
        texts.push(text);
    }
    texts
}
