//! "Did you mean …?"

/// The candidate that `word` is most likely a slip for, as a line of help.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(word, candidates).map(|candidate| format!("did you mean `{candidate}`?"))
}

/// The candidate nearest to `word`, if one is near: another case, or one slip in three letters, two at most.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower: Vec<char> = word.to_lowercase().chars().take(LETTERS_MAX + 1).collect();
    if lower.len() > LETTERS_MAX {
        return None;
    }
    let allowed = (lower.len() / 3).clamp(1, 2);
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .filter_map(|candidate| {
            let other: Vec<char> = candidate.to_lowercase().chars().take(LETTERS_MAX + 1).collect();
            let distance = distance(&lower, &other);
            // A single letter is one slip away from every other one.
            (distance <= allowed && distance < lower.len()).then_some((distance, candidate))
        })
        .min()
        .map(|(_, candidate)| candidate)
}

/// Longer words are not compared: the work grows with the square.
const LETTERS_MAX: usize = 64;

/// Insertions, deletions, replacements and swaps of neighbours that lead from one word to the other
/// (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut before_last = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, to) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(from != to);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *from == b[j - 1] && a[i - 1] == *to {
                row[j + 1] = row[j + 1].min(before_last[j - 1] + 1);
            }
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_other_words_are_not() {
        assert_eq!(closest("CHANGS", ["FINAL", "CHANGES"]), Some("CHANGES"));
        assert_eq!(closest("humidty", ["temperature", "humidity"]), Some("humidity"));
        assert_eq!(closest("Humidity", ["humidity"]), Some("humidity"));
        assert_eq!(closest("form", ["FROM", "WHERE"]), Some("FROM"));
        assert_eq!(closest("speed", ["humidity", "temp"]), None);
        assert_eq!(closest("a", ["b"]), None);
        assert_eq!(closest("ab", ["cd"]), None);
    }
}
