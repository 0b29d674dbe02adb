//! Text that reads like something: each word follows one that it follows somewhere in a few pages about the sea.
//!
//! The prompt chooses where it begins and how it goes on, so that the same prompt gives the same text.

use std::collections::HashMap;

const PAGES: &str = "\
A message in a bottle has no address and no hurry. It goes where the water goes, and the water goes everywhere in time. \
The keeper of the lighthouse writes down every ship that passes, and every ship that does not. \
At night the lamp turns once in twelve seconds, and the whole coast waits for it without knowing. \
When the fog comes in from the north the horn begins to speak, and the fishing boats answer one after the other. \
A river carries what it is given. It does not ask who sent it, and it never carries more than its banks can hold. \
The harbour pilot knows each stone under the water by the name of the boat that found it. \
On a quiet morning you can hear the bell on the outer buoy, and the gulls that argue about the bread. \
A good rope is made of thin threads that would each break alone. \
The tide has two answers to every question, and it gives both of them every day. \
Old sailors say that the wind is honest in the morning and tells stories in the evening. \
The signal flags are kept in a cabinet with small drawers, one for each letter, and the letter that is used most is worn thin. \
When two ships meet in the dark, the one that sees the red light gives way and waits until the other has passed. \
A letter that comes late is still a letter, but a warning that comes late is only a story. \
The children on the pier drop a stick into the stream and run to the other side to see it arrive. \
Every boat leaves with a list of what it carries, and comes back with a list of what it has learned. \
The mill stands where the river is narrow, and it takes only as much water as its wheel can turn. \
When the basin is full the gate closes, and the boats upstream wait without a word of anger. \
Nobody counts the waves, but the sea keeps all of them in order. \
The old map shows an island where there is none, and the fishermen avoid it all the same. \
A storm is announced three times: by the birds, by the barometer, and by the silence in front of it. \
The lamp was changed in the spring, and since then the ships come closer and the keeper sleeps better. \
In the log of the station every line begins with the time, because everything else may be wrong. \
The ferry goes when it is full or when the clock says so, whichever comes first. \
A lantern in the window means that somebody is still at sea and somebody is still awake. \
The water remembers nothing, which is why it can carry everything. \
When the wind turns, the harbour turns with it, and every boat looks the same way again. \
The first light of the day is for the bakers and the fishermen, and they share it without talking. \
Far out, where the water is deep and green, the current runs quietly and never rests. \
A captain who hears no answer sends the question once more, and then looks for another way. \
What the river cannot carry today waits on the bank until tomorrow.";

/// Which words follow which.
pub(crate) struct Model {
    words: Vec<&'static str>,
    /// Where each word stands, without the mark behind it.
    places: HashMap<String, Vec<usize>>,
    /// Words that begin a sentence.
    beginnings: Vec<usize>,
}

impl Model {
    pub(crate) fn new() -> Self {
        let words: Vec<&str> = PAGES.split(' ').collect();
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, word) in words.iter().enumerate() {
            places.entry(plain(word)).or_default().push(at);
        }
        let begins = |at: &usize| *at == 0 || ends_sentence(words[at - 1]);
        let beginnings = (0..words.len()).filter(begins).collect();
        Self {
            words,
            places,
            beginnings,
        }
    }

    /// The text that answers a prompt; it goes on for as long as it is asked.
    pub(crate) fn answer(&self, prompt: &str) -> Text<'_> {
        // FNV-1a.
        let seed = prompt.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let mut text = Text {
            model: self,
            last: None,
            random: seed,
        };
        // The last word of the prompt that the pages know leads into the subject.
        let mut asked = prompt.split_whitespace().rev().map(plain);
        text.last = asked
            .find_map(|word| self.places.get(&word).filter(|_| word.len() > 3))
            .and_then(|places| self.sentence_of(places[0]))
            .map(|beginning| (beginning, true));
        text
    }

    /// Where the sentence begins in which a word stands.
    fn sentence_of(&self, at: usize) -> Option<usize> {
        self.beginnings
            .iter()
            .rev()
            .copied()
            .find(|&beginning| beginning <= at)
    }
}

/// A text that is being made, a word at a time.
pub(crate) struct Text<'a> {
    model: &'a Model,
    /// The word that was last given out; or, if so marked, the one that comes first.
    last: Option<(usize, bool)>,
    random: u64,
}

impl Iterator for Text<'_> {
    type Item = &'static str;

    fn next(&mut self) -> Option<&'static str> {
        let next = match self.last {
            Some((first, true)) => first,
            Some((last, false)) if !ends_sentence(self.model.words[last]) => {
                let places = &self.model.places[&plain(self.model.words[last])];
                // Most often it goes on as it did in the pages, or the text would lose its thread.
                let place = if self.choose(3) == 0 {
                    places[self.choose(places.len())]
                } else {
                    last
                };
                if ends_sentence(self.model.words[place]) || place + 1 == self.model.words.len() {
                    last + 1
                } else {
                    place + 1
                }
            }
            _ => {
                let beginnings = &self.model.beginnings;
                beginnings[self.choose(beginnings.len())]
            }
        };
        self.last = Some((next, false));
        Some(self.model.words[next])
    }
}

impl Text<'_> {
    /// A number below `count` (SplitMix64).
    fn choose(&mut self, count: usize) -> usize {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % count as u64) as usize
    }
}

/// Whether a sentence ends with this word.
pub(crate) fn ends_sentence(word: &str) -> bool {
    word.ends_with('.')
}

fn plain(word: &str) -> String {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    word.to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_decides() {
        let model = Model::new();
        let text = |prompt: &str| model.answer(prompt).take(40).collect::<Vec<_>>().join(" ");
        assert_eq!(text("a"), text("a"));
        assert_ne!(text("a"), text("b"));
        let storm = text("What does a storm announce?");
        assert!(storm.starts_with("A storm is"), "{storm}");
    }

    #[test]
    fn it_goes_on_and_has_sentences() {
        let model = Model::new();
        for prompt in 0..200 {
            let words: Vec<_> = model.answer(&format!("{prompt}")).take(400).collect();
            assert_eq!(words.len(), 400);
            let sentences = words.iter().filter(|word| ends_sentence(word)).count();
            assert!(
                (10..80).contains(&sentences),
                "{sentences} sentences for {prompt}"
            );
        }
    }
}
