//! What is wrong with deliveries: content, order, gaps, duplicates.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::limits::EXAMPLES_MAX;
use super::message::{Filler, Message};
use super::topic::Template;

/// Looks at every delivery to one subscriber.
///
/// MQTT promises an order per publisher and topic (section 4.6), so that is what is checked. Gaps are looked for in each
/// publisher's whole sequence.
pub struct Verifier {
    filler: Arc<Filler>,
    /// Known when the publishers are in this process.
    origin: Option<Origin>,
    publishers: HashMap<(u32, u32), Sequence>,
    findings: Findings,
    topic: String,
}

/// What deliveries must come from.
#[derive(Clone)]
pub struct Origin {
    /// The run that is going on.
    pub run: u32,
    /// Its topics.
    pub template: Template,
    /// Its publishing clients.
    pub clients: u32,
}

/// Counts of what is wrong, with the first few told in words.
#[derive(Debug, Default, Clone)]
pub struct Findings {
    /// Never came.
    pub missing: u64,
    /// Came before.
    pub duplicates: u64,
    /// Came after a later one of the same publisher and topic.
    pub out_of_order: u64,
    /// Not what was sent.
    pub corrupt: u64,
    /// The first few.
    pub examples: Vec<String>,
}

#[derive(Default)]
struct Sequence {
    seen: Ranges,
    last: HashMap<Box<str>, u64>,
}

impl Verifier {
    /// Nothing delivered yet.
    pub fn new(filler: Arc<Filler>, origin: Option<Origin>) -> Verifier {
        Verifier {
            filler,
            origin,
            publishers: HashMap::new(),
            findings: Findings::default(),
            topic: String::new(),
        }
    }

    /// Checks one delivery. True when it is a message that had not come before.
    pub fn check(&mut self, topic: &str, payload: &[u8]) -> bool {
        let Some((message, fill)) = Message::read(payload) else {
            self.findings
                .corrupt(format!("a payload on {topic} that no generator wrote"));
            return false;
        };
        if !message.is_filled_with(&self.filler, fill) {
            self.findings.corrupt(format!(
                "client {}: the payload of {} is changed",
                message.client, message.seq
            ));
            return false;
        }
        if let Some(reason) = self.misplaced(&message, topic) {
            self.findings.corrupt(reason);
            return false;
        }
        let sequence = self.publishers.entry((message.run, message.client)).or_default();
        let (client, seq) = (message.client, message.seq);
        if !sequence.seen.insert(seq) {
            self.findings.duplicates += 1;
            self.findings.example(|| format!("client {client}: {seq} came twice"));
            return false;
        }
        match sequence.last.get_mut(topic) {
            Some(last) if seq < *last => {
                self.findings.out_of_order += 1;
                let last = *last;
                self.findings
                    .example(|| format!("client {client}: {seq} came after {last} on {topic}"));
            }
            Some(last) => *last = seq,
            None => _ = sequence.last.insert(topic.into(), seq),
        }
        true
    }

    /// Why a message of the generator does not belong here.
    fn misplaced(&mut self, message: &Message, topic: &str) -> Option<String> {
        let origin = self.origin.as_ref()?;
        if message.run != origin.run {
            return Some(format!("a message of another run on {topic}"));
        }
        if message.client >= origin.clients {
            return Some(format!("a message of client {}, which there is not", message.client));
        }
        let number = message.seq * u64::from(origin.clients) + u64::from(message.client);
        origin.template.render(message.client, number, &mut self.topic);
        (self.topic != topic).then(|| {
            format!(
                "client {}: {} came on {topic}, not on {}",
                message.client, message.seq, self.topic
            )
        })
    }

    /// The findings, with what is missing: `sent` are the messages of each client of the run, where they are known.
    /// Where they are not, gaps are: from 0 on when `from_start`, else from the first message that came.
    pub fn finish(mut self, sent: Option<&[u64]>, from_start: bool) -> Findings {
        let mut sequences: Vec<_> = self
            .publishers
            .into_iter()
            .map(|((_, client), it)| (client, it.seen))
            .collect();
        if let Some(sent) = sent {
            let came: Vec<_> = sequences.iter().map(|(client, _)| *client).collect();
            let silent = (0..sent.len() as u32).filter(|client| !came.contains(client));
            sequences.extend(silent.map(|client| (client, Ranges::default())));
        }
        sequences.sort_by_key(|(client, _)| *client);
        for (client, seen) in sequences {
            let end = sent
                .and_then(|sent| sent.get(client as usize))
                .copied()
                .unwrap_or(seen.end());
            let begin = if from_start || sent.is_some() { 0 } else { seen.begin() };
            for hole in seen.holes(begin..end) {
                self.findings.missing += hole.end - hole.start;
                let last = hole.end - 1;
                self.findings.example(|| match last - hole.start {
                    0 => format!("client {client}: {last} is missing"),
                    _ => format!("client {client}: {} to {last} are missing", hole.start),
                });
            }
        }
        self.findings
    }
}

impl Findings {
    /// Everything of two subscribers.
    pub fn add(&mut self, other: Findings) {
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.corrupt += other.corrupt;
        self.examples.extend(other.examples);
        self.examples.truncate(EXAMPLES_MAX);
    }

    fn corrupt(&mut self, what: String) {
        self.corrupt += 1;
        self.example(|| what);
    }

    fn example(&mut self, what: impl FnOnce() -> String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what());
        }
    }
}

/// Numbers that came, as ranges: one range and no more while all is well.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// False when it was there.
    fn insert(&mut self, number: u64) -> bool {
        let mut start = number;
        if let Some((before, end)) = self.0.range_mut(..=number).next_back() {
            if number < *end {
                return false;
            }
            if number == *end {
                *end += 1;
                start = *before;
            }
        }
        let end = match self.0.range(number + 1..).next() {
            Some((next, end)) if *next == number + 1 => *end,
            _ if start != number => return true,
            _ => number + 1,
        };
        self.0.remove(&(number + 1));
        self.0.insert(start, end);
        true
    }

    fn begin(&self) -> u64 {
        self.0.first_key_value().map_or(0, |(start, _)| *start)
    }

    fn end(&self) -> u64 {
        self.0.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// What is missing of `whole`.
    fn holes(&self, whole: Range<u64>) -> Vec<Range<u64>> {
        let mut holes = Vec::new();
        let mut next = whole.start;
        for (start, end) in &self.0 {
            if *start > next {
                holes.push(next..(*start).min(whole.end));
            }
            next = next.max(*end);
        }
        holes.push(next..whole.end);
        holes.retain(|hole| hole.start < hole.end);
        holes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Deliveries as (client, seq, topic) and what is found: missing, duplicates, out of order, corrupt.
    #[track_caller]
    fn assert_findings(deliveries: &[(u32, u64, &str)], sent: &[u64], expected: [u64; 4]) {
        let filler = Arc::new(Filler::new());
        let origin = Origin {
            run: 7,
            template: Template::new("t/{client}", 1).unwrap(),
            clients: sent.len() as u32,
        };
        let mut verifier = Verifier::new(filler.clone(), Some(origin));
        for (client, seq, topic) in deliveries {
            let mut payload = Vec::new();
            let message = Message {
                run: 7,
                client: *client,
                seq: *seq,
                sent_us: 1,
            };
            message.put(&filler, 128, &mut payload);
            verifier.check(topic, &payload);
        }
        let found = verifier.finish(Some(sent), true);
        assert_eq!(
            [found.missing, found.duplicates, found.out_of_order, found.corrupt],
            expected,
            "{:?}",
            found.examples
        );
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        assert_findings(&[(0, 0, "t/0"), (1, 0, "t/1"), (0, 1, "t/0")], &[2, 1], [0; 4]);
        assert_findings(&[(0, 0, "t/0"), (0, 2, "t/0")], &[3], [1, 0, 0, 0]);
        assert_findings(&[(0, 0, "t/0")], &[3], [2, 0, 0, 0]);
        assert_findings(&[], &[0, 4], [4, 0, 0, 0]);
        assert_findings(&[(0, 0, "t/0"), (0, 0, "t/0")], &[1], [0, 1, 0, 0]);
        assert_findings(&[(0, 1, "t/0"), (0, 0, "t/0")], &[2], [0, 0, 1, 0]);
        assert_findings(&[(0, 0, "t/1")], &[1, 0], [1, 0, 0, 1]);
        assert_findings(&[(5, 0, "t/5")], &[0], [0, 0, 0, 1]);
    }

    #[test]
    fn changed_payloads_and_other_peoples_are_corrupt() {
        let filler = Arc::new(Filler::new());
        let mut verifier = Verifier::new(filler.clone(), None);
        let mut payload = Vec::new();
        let message = Message {
            run: 1,
            client: 0,
            seq: 0,
            sent_us: 1,
        };
        message.put(&filler, 200, &mut payload);
        assert!(verifier.check("t", &payload));
        payload[150] ^= 1;
        assert!(!verifier.check("t", &payload));
        assert!(!verifier.check("t", b"{\"temp\":81}"));
        assert_eq!(verifier.finish(None, false).corrupt, 2);
    }

    #[test]
    fn ranges_agree_with_a_set() {
        let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
        let mut number = 1u64;
        for _ in 0..2000 {
            number = number * 48_271 % 2_147_483_647;
            let it = number % 700;
            assert_eq!(ranges.insert(it), set.insert(it));
        }
        let missing: Vec<u64> = ranges.holes(0..700).into_iter().flatten().collect();
        assert_eq!(missing, (0..700).filter(|it| !set.contains(it)).collect::<Vec<_>>());
    }
}
