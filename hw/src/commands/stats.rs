//! The commands of `stats.json`: what the accelerator counts. Lists have the order of QEMU's, which puts what it finds in front.

use accel::stats::{Stat, StatKind, StatTarget, StatUnit};
use qapi::Result;
use qapi::commands::StatsCommands;
use qapi::types::{
    Stats, StatsFilter, StatsFilterTarget, StatsProvider, StatsRequest, StatsResult, StatsSchema,
    StatsSchemaValue, StatsTarget, StatsType, StatsUnit, StatsValue,
};

use super::MachineHandlers;
use crate::i386::cpu::Cpus;

impl StatsCommands for MachineHandlers {
    fn query_stats(&self, filter: StatsFilter) -> Result<Vec<StatsResult>> {
        let everything = vec![StatsRequest { provider: StatsProvider::Kvm, names: None }];
        let requests = filter.providers.unwrap_or(everything);
        let targets: Vec<(StatTarget, Option<String>)> = match filter.target {
            StatsFilterTarget::Vm => vec![(StatTarget::Vm, None)],
            StatsFilterTarget::Vcpu(wanted) => {
                let paths = Cpus::paths(&self.0).into_iter();
                let wanted =
                    |path: &str| wanted.vcpus.as_ref().is_none_or(|list| list.iter().any(|p| p == path));
                paths.filter(|(_, p)| wanted(p)).map(|(cpu, p)| (StatTarget::Vcpu(cpu), Some(p))).collect()
            }
            StatsFilterTarget::Cryptodev => Vec::new(),
        };
        let mut list = Vec::new();
        for request in requests.iter().filter(|request| request.provider == StatsProvider::Kvm) {
            let has = |name: &str| request.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name));
            for (target, qom_path) in &targets {
                let found = self.0.accel().statistics(*target)?;
                let stats: Vec<Stats> = found.iter().rev().filter(|(s, _)| has(&s.name)).map(stat).collect();
                if !stats.is_empty() {
                    let provider = StatsProvider::Kvm;
                    list.push(StatsResult { provider, qom_path: qom_path.clone(), stats });
                }
            }
        }
        list.reverse();
        Ok(list)
    }

    fn query_stats_schemas(&self, provider: Option<StatsProvider>) -> Result<Vec<StatsSchema>> {
        if provider == Some(StatsProvider::Cryptodev) {
            return Ok(Vec::new());
        }
        let mut list = Vec::new();
        for (target, of) in [(StatsTarget::Vcpu, StatTarget::Vcpu(0)), (StatsTarget::Vm, StatTarget::Vm)] {
            let found = self.0.accel().statistics(of)?;
            if !found.is_empty() {
                let stats = found.iter().rev().map(|(stat, _)| description(stat)).collect();
                list.push(StatsSchema { provider: StatsProvider::Kvm, target, stats });
            }
        }
        Ok(list)
    }
}

fn stat((stat, values): &(Stat, Vec<u64>)) -> Stats {
    let value = match (values.as_slice(), stat.unit) {
        ([value], StatUnit::Boolean) => StatsValue::Boolean(*value != 0),
        ([value], _) => StatsValue::Scalar(*value),
        (values, _) => StatsValue::List(values.to_vec()),
    };
    Stats { name: stat.name.clone(), value }
}

fn description(stat: &Stat) -> StatsSchemaValue {
    StatsSchemaValue {
        name: stat.name.clone(),
        type_: match stat.kind {
            StatKind::Cumulative => StatsType::Cumulative,
            StatKind::Instant => StatsType::Instant,
            StatKind::Peak => StatsType::Peak,
            StatKind::LinearHistogram => StatsType::LinearHistogram,
            StatKind::LogHistogram => StatsType::Log2Histogram,
        },
        unit: match stat.unit {
            StatUnit::None => None,
            StatUnit::Bytes => Some(StatsUnit::Bytes),
            StatUnit::Seconds => Some(StatsUnit::Seconds),
            StatUnit::Cycles => Some(StatsUnit::Cycles),
            StatUnit::Boolean => Some(StatsUnit::Boolean),
        },
        base: (stat.exponent != 0).then_some(stat.base),
        exponent: stat.exponent,
        bucket_size: (stat.kind == StatKind::LinearHistogram).then_some(stat.bucket_size),
    }
}
