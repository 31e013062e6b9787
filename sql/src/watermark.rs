//! Watermarks: how far event time has come, per shard and for the task.
//!
//! A shard's watermark is its largest event time less DELAY. The task's is the smallest of its shards', and never goes
//! back. A shard that is silent for IDLE leaves the minimum, so that one quiet device does not hold all windows open;
//! when all are silent, the task's watermark goes on by the time that passes. It does not jump to the wall clock, so that
//! a stream of last year's data stays in last year, unless the query asks for that (`SET idle = 'clock'`): then it is
//! that time less DELAY. Either way nothing shows of it but by a step, and a step saves it with what it puts out.
//!
//! ADVANCE WATERMARK appends a marker ([`advance_to`]) to each shard, for a stream that has ended or was filled from a
//! file. Like everything that moves event time it lies in the log, so a replay sees it at the same place.
//!
//! Two guards: an event time too far ahead of its append time moves nothing (a device with a wrong clock), and neither
//! does a row without an event time of its own.

use headwater_store::{Record, ShardId};

use crate::plan::physical::Silence;
use crate::types::TimestampUs;

/// How a source's watermarks behave.
#[derive(Debug, Clone, Copy)]
pub struct WatermarkRules {
    /// How far they stay behind the largest event time.
    pub delay_us: i64,
    /// After how long a silent shard leaves the minimum.
    pub idle_us: i64,
    /// An event time further ahead of its append time than this moves nothing.
    pub future_skew_us: i64,
    /// Where event time goes while all shards are silent.
    pub silence: Silence,
}

/// The watermarks of one source's shards, and their minimum.
#[derive(Debug, Clone)]
pub struct Watermarks {
    silence: Silence,
    shards: Vec<ShardClock>,
    combined: TimestampUs,
    /// The time of the last advance, to know what has passed since.
    advanced_at: TimestampUs,
}

#[derive(Debug, Clone)]
struct ShardClock {
    shard: ShardId,
    rules: WatermarkRules,
    watermark: TimestampUs,
    /// When it last gave a record, in the step's time.
    heard_at: TimestampUs,
    idle: bool,
}

impl Watermarks {
    /// As they were saved; `now` is the time of the start, from which silence counts.
    pub fn new(
        rules: WatermarkRules,
        saved: impl IntoIterator<Item = (ShardId, TimestampUs)>,
        combined: TimestampUs,
        now: TimestampUs,
    ) -> Watermarks {
        Watermarks {
            silence: rules.silence,
            shards: saved
                .into_iter()
                .map(|(shard, watermark)| ShardClock::new(shard, rules, watermark, now))
                .collect(),
            combined,
            advanced_at: now,
        }
    }

    /// From now on these are its shards, each with rules of its own. One that was not among them before has shown nothing,
    /// and takes nothing back.
    pub fn set_shards(&mut self, shards: impl IntoIterator<Item = (ShardId, WatermarkRules)>, now: TimestampUs) {
        let clock = |(shard, rules): (ShardId, WatermarkRules)| {
            let mut known = self.shards.iter();
            match known.find(|clock| clock.shard == shard) {
                Some(clock) => ShardClock { rules, ..clock.clone() },
                None => ShardClock::new(shard, rules, TimestampUs::MIN, now),
            }
        };
        self.shards = shards.into_iter().map(clock).collect();
    }

    /// Takes in one row's event time (None: it has none of its own) and gives the row's frontier: the watermark of
    /// its shard before it, or that of the task, whichever is later.
    pub fn observe(
        &mut self,
        shard: ShardId,
        event: Option<TimestampUs>,
        appended: TimestampUs,
        now: TimestampUs,
    ) -> TimestampUs {
        let Some(clock) = self.shards.iter_mut().find(|clock| clock.shard == shard) else {
            return self.combined;
        };
        let frontier = clock.watermark.max(self.combined);
        clock.heard_at = now;
        clock.idle = false;
        let rules = clock.rules;
        let in_time = |event: &TimestampUs| *event <= appended.plus_us(rules.future_skew_us);
        if let Some(event) = event.filter(in_time) {
            clock.watermark = clock.watermark.max(event.plus_us(-rules.delay_us));
        }
        frontier
    }

    /// A marker moves its shard's watermark, however far ahead it is: somebody has said so.
    pub fn jump(&mut self, shard: ShardId, to: TimestampUs, now: TimestampUs) {
        if let Some(clock) = self.shards.iter_mut().find(|clock| clock.shard == shard) {
            clock.watermark = clock.watermark.max(to);
            clock.heard_at = now;
            clock.idle = false;
        }
    }

    /// Records that are already there are still to be read: until then no shard counts as silent.
    pub fn still_reading(&mut self, now: TimestampUs) {
        for clock in self.shards.iter_mut().filter(|clock| !clock.idle) {
            clock.heard_at = clock.heard_at.max(now);
        }
    }

    /// The task's watermark at the end of a step.
    pub fn advance(&mut self, now: TimestampUs) -> TimestampUs {
        let passed_us = now.0.saturating_sub(self.advanced_at.0).max(0);
        self.advanced_at = self.advanced_at.max(now);
        let was_silent = self.shards.iter().all(|clock| clock.idle);
        if !was_silent {
            self.leave_silent(now);
        } else if self.silence == Silence::Elapsed {
            self.combined = self.combined.plus_us(passed_us);
        }
        let silent = self.shards.iter().all(|clock| clock.idle);
        let delay_us = self.shards.iter().map(|clock| clock.rules.delay_us).max();
        if let (Silence::Clock, true, Some(delay_us)) = (self.silence, silent, delay_us) {
            self.combined = self.combined.max(now.plus_us(delay_us.saturating_neg()));
        }
        let active = self
            .shards
            .iter()
            .filter(|clock| !clock.idle)
            .map(|clock| clock.watermark);
        if let Some(minimum) = active.min() {
            self.combined = self.combined.max(minimum);
        }
        self.combined
    }

    /// Shards leave in the order in which they fell silent, each letting the minimum of the others through; so the
    /// result does not depend on how often this is called.
    fn leave_silent(&mut self, now: TimestampUs) {
        loop {
            let silent = self
                .shards
                .iter_mut()
                .filter(|clock| !clock.idle && now >= clock.silent_at());
            let Some(next) = silent.min_by_key(|clock| (clock.silent_at(), clock.watermark)) else {
                return;
            };
            next.idle = true;
            let left = next.watermark;
            let others = self
                .shards
                .iter()
                .filter(|clock| !clock.idle)
                .map(|clock| clock.watermark)
                .min();
            self.combined = self.combined.max(others.unwrap_or(left));
            // The last one may never have shown anything, and only have been waited for the longest.
            if others.is_none() && left == TimestampUs::MIN {
                let heard = self.shards.iter().map(|clock| clock.watermark);
                let heard = heard.filter(|watermark| *watermark != TimestampUs::MIN).min();
                self.combined = self.combined.max(heard.unwrap_or(left));
            }
        }
    }

    /// The task's watermark as of the last advance.
    pub fn combined(&self) -> TimestampUs {
        self.combined
    }

    /// Each shard's, to be saved.
    pub fn shards(&self) -> impl Iterator<Item = (ShardId, TimestampUs)> + '_ {
        self.shards.iter().map(|clock| (clock.shard, clock.watermark))
    }
}

impl ShardClock {
    fn new(shard: ShardId, rules: WatermarkRules, watermark: TimestampUs, now: TimestampUs) -> ShardClock {
        ShardClock {
            shard,
            rules,
            watermark,
            heard_at: now,
            idle: false,
        }
    }

    /// When it counts as silent, if it says nothing until then.
    fn silent_at(&self) -> TimestampUs {
        self.heard_at.plus_us(self.rules.idle_us)
    }
}

/// The record that ADVANCE WATERMARK appends to each shard: no row, and no message.
pub(crate) fn advance_to(to: TimestampUs) -> Record {
    Record::watermark(to.0)
}

/// What a marker moves the watermark to; None: the record is none.
pub(crate) fn marker(record: &Record) -> Option<TimestampUs> {
    record.watermark_us().map(TimestampUs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_store::{GroupId, StreamId};

    const SECOND: i64 = 1_000_000;

    fn shard(number: u16) -> ShardId {
        ShardId {
            group: GroupId(1),
            stream: StreamId(1),
            number,
        }
    }

    fn at(seconds: i64) -> TimestampUs {
        TimestampUs(seconds * SECOND)
    }

    fn two_shards() -> Watermarks {
        let rules = WatermarkRules {
            delay_us: 5 * SECOND,
            idle_us: 30 * SECOND,
            future_skew_us: 300 * SECOND,
            silence: Silence::Elapsed,
        };
        Watermarks::new(
            rules,
            [(shard(0), TimestampUs::MIN), (shard(1), TimestampUs::MIN)],
            TimestampUs::MIN,
            at(1000),
        )
    }

    #[test]
    fn the_minimum_of_the_shards_less_the_delay_and_never_back() {
        let mut marks = two_shards();
        assert_eq!(
            marks.observe(shard(0), Some(at(100)), at(1000), at(1000)),
            TimestampUs::MIN
        );
        assert_eq!(marks.advance(at(1000)), TimestampUs::MIN, "one shard has shown nothing");
        marks.observe(shard(1), Some(at(50)), at(1000), at(1000));
        assert_eq!(marks.advance(at(1000)), at(45));
        assert_eq!(
            marks.observe(shard(1), Some(at(20)), at(1000), at(1000)),
            at(45),
            "out of order"
        );
        assert_eq!(marks.advance(at(1000)), at(45));
        assert_eq!(
            marks.observe(shard(0), Some(at(60)), at(1000), at(1000)),
            at(95),
            "its own shard's, not the task's"
        );
    }

    #[test]
    fn a_silent_shard_leaves_and_when_all_are_silent_time_passes() {
        let mut marks = two_shards();
        marks.observe(shard(0), Some(at(100)), at(1000), at(1010));
        assert_eq!(marks.advance(at(1029)), TimestampUs::MIN);
        assert_eq!(marks.advance(at(1030)), at(95), "shard 1 left");
        assert_eq!(marks.advance(at(1039)), at(95), "shard 0 still counts as heard");
        assert_eq!(marks.advance(at(1040)), at(95), "now all are silent");
        assert_eq!(marks.advance(at(1050)), at(105), "and ten seconds pass");
        assert_eq!(
            marks.observe(shard(1), Some(at(100)), at(1051), at(1051)),
            at(105),
            "it is late by the task's"
        );
        assert_eq!(marks.advance(at(1060)), at(105), "shard 1 is back, and behind");
    }

    #[test]
    fn with_the_clock_event_time_goes_to_the_wall_clock_once_all_are_silent() {
        let mut marks = two_shards();
        marks.silence = Silence::Clock;
        marks.observe(shard(0), Some(at(100)), at(1000), at(1010));
        assert_eq!(marks.advance(at(1030)), at(95), "shard 1 left, shard 0 counts as heard");
        assert_eq!(marks.advance(at(1040)), at(1035), "all are silent: now, less the delay");
        assert_eq!(marks.advance(at(1050)), at(1045));
        marks.observe(shard(0), Some(at(200)), at(1051), at(1051));
        assert_eq!(
            marks.advance(at(1052)),
            at(1045),
            "a shard that speaks again takes nothing back"
        );
    }

    #[test]
    fn shards_of_several_streams_have_their_own_rules() {
        let mut marks = two_shards();
        let rules = |delay, idle| WatermarkRules {
            delay_us: delay * SECOND,
            idle_us: idle * SECOND,
            future_skew_us: 300 * SECOND,
            silence: Silence::Elapsed,
        };
        marks.observe(shard(1), Some(at(70)), at(1000), at(1000));
        marks.set_shards([(shard(1), rules(0, 10)), (shard(2), rules(20, 40))], at(1000));
        marks.observe(shard(1), Some(at(100)), at(1000), at(1001));
        assert_eq!(
            marks.shards().collect::<Vec<_>>(),
            [(shard(1), at(100)), (shard(2), TimestampUs::MIN)]
        );
        assert_eq!(
            marks.advance(at(1012)),
            TimestampUs::MIN,
            "shard 2 has shown nothing, and may be silent longer"
        );
        assert_eq!(
            marks.advance(at(1040)),
            at(100),
            "nor does it ever: what shard 1 has shown counts"
        );
        marks.observe(shard(2), Some(at(200)), at(1000), at(1041));
        assert_eq!(marks.advance(at(1042)), at(180), "its own delay");
    }

    #[test]
    fn how_often_it_is_asked_changes_nothing() {
        let heard = |marks: &mut Watermarks| {
            marks.observe(shard(0), Some(at(100)), at(1000), at(1001));
            marks.observe(shard(1), Some(at(50)), at(1000), at(1002));
        };
        let (mut often, mut seldom) = (two_shards(), two_shards());
        heard(&mut often);
        heard(&mut seldom);
        (1002..=1032).for_each(|now| {
            often.advance(at(now));
        });
        assert_eq!(often.combined(), seldom.advance(at(1032)));
        assert_eq!(often.combined(), at(45).max(at(45)));
    }

    #[test]
    fn a_clock_that_is_ahead_and_a_row_without_time_move_nothing() {
        let mut marks = two_shards();
        for number in [0, 1] {
            marks.observe(shard(number), Some(at(1301)), at(1000), at(1000));
            marks.observe(shard(number), None, at(1000), at(1000));
        }
        assert_eq!(marks.advance(at(1000)), TimestampUs::MIN);
        for number in [0, 1] {
            marks.observe(shard(number), Some(at(1300)), at(1000), at(1000));
        }
        assert_eq!(marks.advance(at(1000)), at(1295));
    }
}
