//! A plan, running: decoder, operators and state of one task, without any I/O of its own.
//!
//! ```text
//! apply(records)*  decode -> frontier of each row -> operators, one after the other
//!                  a read takes its rows in between: begin(records), and go_on as often as there is more
//! finish(now)      watermark -> timers that are due -> advance, operator by operator -> Finished
//! ```
//!
//! Between the first `apply` and `finish` is one step. What `finish` gives is what the step's Batch holds; when that
//! Batch is not committed, the pipeline is thrown away and a new one is made from what is.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use headwater_store::{Put, Record, ShardId, StreamId};
use tokio_util::sync::CancellationToken;

use crate::change::{Delta, Diff, RecordId};
use crate::column::Columns;
use crate::decode::{Decoded, Decoder};
use crate::function::Scope;
use headwater_store::limits::BATCH_BYTES_MAX;

use crate::limits::{PIECE_RECORDS, STEP_BYTES_MAX};
use crate::operator::{self, Operator, Place, Port};
use crate::plan::physical::{Node, Op, OperatorId, Plan, PlanError};
use crate::step::{Gathered, LateRow, SinkRow, State, Step, Stop, TimerKind};
use crate::types::TimestampUs;
use crate::value::Fault;
use crate::watermark::{WatermarkRules, Watermarks};

/// A plan, running.
#[derive(Debug)]
pub struct Pipeline {
    sources: Vec<SourceStage>,
    stages: Vec<Stage>,
    state: State,
    gathered: Gathered,
    /// What goes on to the next operator: (stage, port, changes). What an operator puts out comes before all else, so
    /// that it is not there for longer than it must.
    queue: VecDeque<(usize, Port, Delta)>,
    /// What a step puts out has to fit a Batch.
    one_batch: bool,
    /// The changes of a key come out for each record, not once in a step.
    each_input: bool,
    /// Then: rows of a source that wait for their turn, from that row on.
    waiting: VecDeque<(usize, Delta, u32)>,
    /// Then: what this record has changed is still to be said.
    changed: Option<RecordId>,
    /// When it is cancelled, the step is given up. None: whoever takes in records looks at that between them.
    stop: Option<CancellationToken>,
}

#[derive(Debug)]
struct SourceStage {
    /// What reads the records of each stream: one, but of a topic filter.
    decoders: Vec<(StreamId, Decoder)>,
    /// None: a read that ends, for which nothing is late.
    watermarks: Option<Watermarks>,
    users: Vec<(usize, Port)>,
}

#[derive(Debug)]
struct Stage {
    id: OperatorId,
    operator: Box<dyn Operator>,
    /// Up to the Exchange, where each task of the query does the same.
    shared: bool,
    users: Vec<(usize, Port)>,
    /// What comes may be that much older than the watermark: a join is before it.
    behind_us: i64,
}

/// What a step comes to.
#[derive(Debug, Default)]
pub struct Finished {
    /// In order.
    pub rows: Vec<SinkRow>,
    /// Values that could not be worked out.
    pub errors: Vec<(RecordId, Fault)>,
    /// Those of them that every task of the query meets.
    pub shared_errors: Vec<(RecordId, Fault)>,
    /// Rows that came after their window had closed.
    pub late: Vec<LateRow>,
    /// Those of them that every task of the query meets.
    pub shared_late: Vec<LateRow>,
    /// Changes of state.
    pub puts: Vec<Put>,
    /// Timers that were fired.
    pub timers: usize,
    /// Timers that are due and did not fit this step: finish another one at once. They are rows of the state, and the
    /// watermark that made them due is saved: so they fire after a restart as well, and until they do no row can join
    /// their windows, which that watermark has closed.
    pub more: bool,
}

impl Pipeline {
    /// Makes the operators of `plan`. `watermarks` has one entry per source of the plan, in its order.
    pub fn new(
        plan: &Plan,
        place: &Place,
        state: State,
        watermarks: Vec<Option<Watermarks>>,
    ) -> Result<Pipeline, PlanError> {
        plan.check()?;
        let mut pipeline = Pipeline {
            sources: Vec::new(),
            stages: Vec::new(),
            state,
            gathered: Gathered::default(),
            queue: VecDeque::new(),
            one_batch: !place.in_memory(),
            each_input: plan.manner.each_input,
            waiting: VecDeque::new(),
            changed: None,
            stop: None,
        };
        let mut watermarks = watermarks.into_iter();
        let mut behind: HashMap<OperatorId, i64> = HashMap::new();
        let exchange = plan.nodes.iter().position(|node| matches!(node.op, Op::Exchange(_)));
        for (position, node) in plan.nodes.iter().enumerate() {
            let of_input = |id| behind.get(id).copied().unwrap_or(0);
            let behind_us = node.inputs.iter().map(of_input).max().unwrap_or(0);
            behind.insert(node.id, behind_us.saturating_add(node.op.behind_us()));
            match operator::build(plan, node, place)? {
                Some(operator) => {
                    let users = pipeline.users(plan, node);
                    let shared = exchange.is_some_and(|exchange| position <= exchange);
                    pipeline.stages.push(Stage {
                        id: node.id,
                        operator,
                        shared,
                        users,
                        behind_us,
                    });
                }
                None => {
                    pipeline.sources.push(SourceStage {
                        decoders: match &node.op {
                            Op::Source(source) => vec![(source.stream, Decoder::new(source)?)],
                            // To be said by `set_homes`.
                            _ => Vec::new(),
                        },
                        watermarks: watermarks.next().flatten(),
                        users: pipeline.users(plan, node),
                    });
                }
            }
        }
        Ok(pipeline)
    }

    /// The stages that read a node's output, by their numbers.
    fn users(&self, plan: &Plan, of: &Node) -> Vec<(usize, Port)> {
        let stages = plan
            .nodes
            .iter()
            .filter(|node| !matches!(node.op, Op::Source(_) | Op::Homes(_)))
            .enumerate();
        let ports = |(stage, node): (usize, &Node)| -> Vec<(usize, Port)> {
            let read = node.inputs.iter().enumerate().filter(|(_, input)| **input == of.id);
            read.map(|(port, _)| (stage, port as Port)).collect()
        };
        stages.flat_map(ports).collect()
    }

    /// From now on a step ends with [`Stop::GivenUp`] as soon as `stop` is cancelled: a piece of a join may be one of very
    /// many. The pipeline is of no use after that, as after any other [`Stop`].
    pub fn give_up_at(&mut self, stop: CancellationToken) {
        self.stop = Some(stop);
    }

    /// Takes in records, which are in the order of their shards.
    pub fn apply(&mut self, records: &[(RecordId, Record)], now: TimestampUs) -> Result<(), Stop> {
        let mut more = self.begin(records, now)?;
        while more {
            more = self.go_on(now)?;
        }
        Ok(())
    }

    /// Begins to take in records. Gives whether there is more to do before the next ones.
    pub fn begin(&mut self, records: &[(RecordId, Record)], now: TimestampUs) -> Result<bool, Stop> {
        // The right side of a join goes first: what a table says is known to the rows of the same step.
        let alone = self.sources.len() == 1;
        if self.each_input && !alone {
            return self.begin_each(records, now);
        }
        for number in (0..self.sources.len()).rev() {
            let source = &self.sources[number];
            let own = |(id, _): &&(RecordId, Record)| source.decoder(id.shard.stream).is_some();
            if alone {
                self.read_in_pieces(number, records, now)?;
            } else if records.iter().all(|record| own(&record)) {
                self.read(number, records, now)?;
            } else {
                let own: Vec<_> = records.iter().filter(own).cloned().collect();
                self.read(number, &own, now)?;
            }
        }
        self.drain(now)
    }

    /// Where there is one source, what comes of some records need not wait for the others: so many at once that they and
    /// their columns stay in the processor's cache. All but the last piece is worked off.
    fn read_in_pieces(&mut self, source: usize, records: &[(RecordId, Record)], now: TimestampUs) -> Result<(), Stop> {
        let mut pieces = records.chunks(PIECE_RECORDS).peekable();
        while let Some(piece) = pieces.next() {
            self.read(source, piece, now)?;
            if pieces.peek().is_some() {
                self.drain_all(now)?;
            }
        }
        Ok(())
    }

    /// As above, record by record: what comes of one does not depend on which others are of its step.
    fn begin_each(&mut self, records: &[(RecordId, Record)], now: TimestampUs) -> Result<bool, Stop> {
        for record in records {
            for number in (0..self.sources.len()).rev() {
                if self.sources[number].decoder(record.0.shard.stream).is_some() {
                    self.read(number, std::slice::from_ref(record), now)?;
                }
            }
        }
        self.drain(now)
    }

    /// Takes in records of one source, those of one stream after the other as they come.
    fn read(&mut self, source: usize, records: &[(RecordId, Record)], now: TimestampUs) -> Result<(), Stop> {
        for records in records.chunk_by(|(a, _), (b, _)| a.shard.stream == b.shard.stream) {
            let delta = self.sources[source].read(records, now, &mut self.gathered)?;
            self.bring(source, delta);
        }
        Ok(())
    }

    /// The streams of a topic filter, the source of that number, are these from now on, with these shards.
    pub fn set_homes(
        &mut self,
        source: usize,
        decoders: Vec<(StreamId, Decoder)>,
        shards: Vec<(ShardId, WatermarkRules)>,
        now: TimestampUs,
    ) {
        let Some(source) = self.sources.get_mut(source) else {
            return;
        };
        source.decoders = decoders;
        if let Some(watermarks) = &mut source.watermarks {
            watermarks.set_shards(shards, now);
        }
    }

    /// Rows of a source: all at once, or one by one.
    fn bring(&mut self, source: usize, delta: Delta) {
        if self.each_input && !delta.is_empty() {
            self.waiting.push_back((source, delta, 0));
        } else {
            let users = &self.sources[source].users;
            let users = users.iter().map(|(stage, port)| (*stage, *port, delta.clone()));
            self.queue.extend(users.filter(|(_, _, delta)| !delta.is_empty()));
        }
    }

    /// Goes on with what was begun. Gives whether there is still more to do.
    pub fn go_on(&mut self, now: TimestampUs) -> Result<bool, Stop> {
        if let Some(stage) = self.unfinished() {
            self.run(stage, now, |operator, step| operator.go_on(step))?;
        }
        self.drain(now)
    }

    /// The rows so far, of a read that shows them before the step is over.
    pub fn take_rows(&mut self) -> Vec<SinkRow> {
        self.gathered.row_bytes = 0;
        std::mem::take(&mut self.gathered.rows)
    }

    /// Takes in what was decoded for several queries: `columns` are those of the only source, `rows` those that this query
    /// has not had yet and that its filter may keep; None: all.
    pub fn apply_decoded(
        &mut self,
        decoded: &Decoded,
        columns: &[usize],
        rows: Option<&[u32]>,
        now: TimestampUs,
    ) -> Result<(), Stop> {
        let [source] = &mut self.sources[..] else {
            debug_assert!(false, "queries with several sources read alone");
            return Ok(());
        };
        let delta = source.take(decoded, columns, rows, now);
        self.bring(0, delta);
        self.drain_all(now)
    }

    /// Ends the step, with at most `timers_max` timers, and no more than their bytes allow. `ended`: there will be no more
    /// input.
    pub fn finish(&mut self, now: TimestampUs, ended: bool, timers_max: usize) -> Result<Finished, Stop> {
        let advance = |source: &mut SourceStage| match &mut source.watermarks {
            Some(watermarks) => watermarks.advance(now),
            None => TimestampUs::MIN,
        };
        let watermark = self.sources.iter_mut().map(advance).min().unwrap_or(TimestampUs::MIN);
        let watermark = if ended { TimestampUs::MAX } else { watermark };
        // A window that closes for a million keys is many steps: a step must fit a Batch.
        let (mut timers, mut more) = (0, false);
        // What ends has no Batch to fit.
        let room = (!ended).then_some(timers_max);
        for number in 0..self.stages.len() {
            let watermark = watermark.plus_us(self.stages[number].behind_us.saturating_neg());
            // An operator whose input has timers left has to wait with its own.
            for (kind, time) in [(TimerKind::Event, watermark), (TimerKind::Clock, now)] {
                if !more {
                    more = self.fire(number, (kind, time), now, room, &mut timers)?;
                }
            }
            self.run(number, now, |operator, step| operator.advance(0, watermark, step))?;
            self.drain_all(now)?;
        }
        let Gathered {
            rows,
            errors,
            shared_errors,
            late,
            shared_late,
            row_bytes: _,
            timer_bytes: _,
            rows_expected: _,
        } = std::mem::take(&mut self.gathered);
        self.gathered.rows_expected = rows.len();
        let puts = self.state.take_puts();
        Ok(Finished {
            rows,
            errors,
            shared_errors,
            late,
            shared_late,
            puts,
            timers,
            more,
        })
    }

    /// Fires the timers of a stage that are due, as long as there is room for them (None: for all); gives whether some are
    /// left.
    fn fire(
        &mut self,
        stage: usize,
        (kind, time): (TimerKind, TimestampUs),
        now: TimestampUs,
        room: Option<usize>,
        timers: &mut usize,
    ) -> Result<bool, Stop> {
        let id = self.stages[stage].id;
        loop {
            let full = |room: usize| *timers >= room || self.gathered.timer_bytes >= STEP_BYTES_MAX;
            if room.is_some_and(full) {
                return Ok(self.state.is_due(id, kind, time));
            }
            let Some((at, key)) = self.state.next_timer(id, kind, time) else {
                return Ok(false);
            };
            self.run(stage, now, |operator, step| match kind {
                TimerKind::Event => operator.timer(at, &key, step),
                TimerKind::Clock => operator.clock(at, &key, step),
            })?;
            *timers += 1;
        }
    }

    /// Something waits for its time, so that time alone can bring output.
    pub fn has_timers(&self) -> bool {
        self.state.has_timers()
    }

    /// How many timers wait: one for each group of each window that is open.
    pub fn timers(&self) -> usize {
        self.state.timers()
    }

    /// More records are there already: until they are read, no shard counts as silent.
    pub fn still_reading(&mut self, now: TimestampUs) {
        let watermarks = self.sources.iter_mut().filter_map(|source| source.watermarks.as_mut());
        watermarks.for_each(|watermarks| watermarks.still_reading(now));
    }

    /// The watermarks of all shards, to be saved.
    pub fn shard_watermarks(&self) -> Vec<(ShardId, TimestampUs)> {
        self.watermarks().flat_map(Watermarks::shards).collect()
    }

    /// The sources' watermarks, in the order of the plan.
    pub fn source_watermarks(&self) -> Vec<TimestampUs> {
        self.watermarks().map(Watermarks::combined).collect()
    }

    fn watermarks(&self) -> impl Iterator<Item = &Watermarks> {
        self.sources.iter().filter_map(|source| source.watermarks.as_ref())
    }

    fn run(
        &mut self,
        stage: usize,
        now: TimestampUs,
        call: impl FnOnce(&mut dyn Operator, &mut Step<'_>) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let mut emitted = Vec::new();
        let Stage {
            id, operator, shared, ..
        } = &mut self.stages[stage];
        let mut step = Step {
            now,
            operator: *id,
            shared: *shared,
            state: &mut self.state,
            gathered: &mut self.gathered,
            emitted: &mut emitted,
        };
        call(operator.as_mut(), &mut step)?;
        let users = self.stages[stage].users.clone();
        let emitted = emitted.into_iter().rev();
        emitted.for_each(|delta| self.pass_on(&users, delta));
        Ok(())
    }

    /// Puts changes before all that waits.
    fn pass_on(&mut self, users: &[(usize, Port)], delta: Delta) {
        let Some(((last, last_port), others)) = users.split_last() else {
            return;
        };
        if delta.is_empty() {
            return;
        }
        let copies: Vec<_> = others.iter().map(|user| (user, delta.clone())).collect();
        self.queue.push_front((*last, *last_port, delta));
        for ((stage, port), copy) in copies.into_iter().rev() {
            self.queue.push_front((*stage, *port, copy));
        }
    }

    /// Runs operators until nothing waits, or one of them has more to do. Gives whether that is so.
    fn drain(&mut self, now: TimestampUs) -> Result<bool, Stop> {
        loop {
            if self.drain_queue(now)? {
                return Ok(true);
            }
            let next = self.waiting.front();
            let next = next.map(|(_, delta, row)| delta.origin[*row as usize]);
            // Where several sources read one stream, a record comes to each of them.
            if self.changed.is_some() && self.changed != next {
                self.say_changes(now)?;
            }
            let Some((source, delta, row)) = self.waiting.front_mut() else {
                return Ok(false);
            };
            let (source, one) = (*source, delta.take(&[*row]));
            *row += 1;
            if *row as usize == delta.len() {
                self.waiting.pop_front();
            }
            let users = self.sources[source].users.clone();
            self.pass_on(&users, one);
            self.changed = next;
        }
    }

    /// What one record has changed comes out before the next one comes in, as it would at the end of a step.
    fn say_changes(&mut self, now: TimestampUs) -> Result<(), Stop> {
        self.changed = None;
        for number in 0..self.stages.len() {
            self.run(number, now, |operator, step| {
                operator.advance(0, TimestampUs::MIN, step)
            })?;
            while self.drain_queue(now)? {
                if let Some(stage) = self.unfinished() {
                    self.run(stage, now, |operator, step| operator.go_on(step))?;
                }
            }
        }
        Ok(())
    }

    /// As `drain`, of what has come in already.
    fn drain_queue(&mut self, now: TimestampUs) -> Result<bool, Stop> {
        loop {
            if self.stop.as_ref().is_some_and(CancellationToken::is_cancelled) {
                return Err(Stop::GivenUp);
            }
            if self.one_batch && self.gathered.row_bytes > BATCH_BYTES_MAX {
                return Err(Stop::TooLarge);
            }
            // What it has put out so far goes on first.
            let unfinished = self.unfinished();
            let goes_first = |(stage, ..): &mut (usize, Port, Delta)| unfinished.is_none_or(|behind| *stage > behind);
            let Some((stage, port, delta)) = self.queue.pop_front_if(goes_first) else {
                return Ok(unfinished.is_some());
            };
            self.run(stage, now, |operator, step| operator.apply(port, &delta, step))?;
        }
    }

    fn drain_all(&mut self, now: TimestampUs) -> Result<(), Stop> {
        let mut more = self.drain(now)?;
        while more {
            more = self.go_on(now)?;
        }
        Ok(())
    }

    /// The last operator that has not worked off its input.
    fn unfinished(&self) -> Option<usize> {
        self.stages.iter().rposition(|stage| stage.operator.has_more())
    }
}

impl SourceStage {
    fn decoder(&self, stream: StreamId) -> Option<&Decoder> {
        let mut decoders = self.decoders.iter();
        decoders.find(|(known, _)| *known == stream).map(|(_, decoder)| decoder)
    }

    fn read(
        &mut self,
        records: &[(RecordId, Record)],
        now: TimestampUs,
        gathered: &mut Gathered,
    ) -> Result<Delta, Stop> {
        let stream = records.first().map(|(id, _)| id.shard.stream);
        let Some(decoder) = stream.and_then(|stream| self.decoder(stream)) else {
            return Ok(Delta::empty());
        };
        let decoded = decoder.decode(records, &Scope { now })?;
        let frontier = self.frontier(&decoded, 0..decoded.rows.rows(), now);
        let time = decoded.time.iter().zip(&decoded.appended);
        let time: Vec<_> = time.map(|(event, appended)| event.unwrap_or(*appended)).collect();
        gathered.shared_errors.extend(decoded.errors);
        Ok(Delta {
            rows: decoded.rows,
            diff: Diff::Append,
            time: time.into(),
            origin: decoded.origin.into(),
            frontier: frontier.into(),
        })
    }

    /// Some rows of what was decoded for several queries: of its columns those that this one has.
    fn take(&mut self, decoded: &Decoded, columns: &[usize], rows: Option<&[u32]>, now: TimestampUs) -> Delta {
        let own = columns.iter().map(|column| decoded.rows.column(*column).clone());
        let own = Columns::new(own.collect(), decoded.rows.rows());
        let time = |row: usize| decoded.time[row].unwrap_or(decoded.appended[row]);
        match rows {
            None => Delta {
                rows: own,
                diff: Diff::Append,
                time: Arc::new((0..decoded.origin.len()).map(time).collect()),
                origin: decoded.origin.clone().into(),
                frontier: self.frontier(decoded, 0..decoded.origin.len(), now).into(),
            },
            Some(rows) => {
                let numbers = || rows.iter().map(|row| *row as usize);
                Delta {
                    rows: own.take(rows),
                    diff: Diff::Append,
                    time: Arc::new(numbers().map(time).collect()),
                    origin: Arc::new(numbers().map(|row| decoded.origin[row]).collect()),
                    frontier: self.frontier(decoded, numbers(), now).into(),
                }
            }
        }
    }

    /// Takes the rows' times into the watermarks, in the order of the log: a marker counts for the rows behind it.
    fn frontier(
        &mut self,
        decoded: &Decoded,
        rows: impl ExactSizeIterator<Item = usize>,
        now: TimestampUs,
    ) -> Vec<TimestampUs> {
        let Some(watermarks) = &mut self.watermarks else {
            return vec![TimestampUs::MIN; rows.len()];
        };
        let mut markers = decoded.markers.iter().peekable();
        let mut frontier = Vec::with_capacity(rows.len());
        for row in rows {
            while let Some((_, shard, to)) = markers.next_if(|(before, ..)| *before <= row) {
                watermarks.jump(*shard, *to, now);
            }
            frontier.push(watermarks.observe(decoded.origin[row].shard, decoded.time[row], decoded.appended[row], now));
        }
        markers.for_each(|(_, shard, to)| watermarks.jump(*shard, *to, now));
        frontier
    }
}

#[cfg(test)]
mod tests;
