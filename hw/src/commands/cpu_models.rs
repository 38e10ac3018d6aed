//! The commands of `machine-target.json`: the architecture, and what CPU models there are and have.

use accel::cpu::{ALIASES, Base, CpuModel, Facts, SETTINGS, feature, features};
use qapi::commands::MachineTargetCommands;
use qapi::types::{
    CpuDefinitionInfo, CpuModelExpansionInfo, CpuModelExpansionType, CpuModelInfo, SysEmuTarget, TargetInfo,
};
use qapi::{Dict, Error, Result, Value};
use qom::Input;

use super::MachineHandlers;

/// Numbers and texts that are part of a model whatever it is built on.
const STATIC_SETTINGS: [&str; 7] =
    ["min-level", "min-xlevel", "family", "model", "stepping", "model-id", "vendor"];

impl MachineTargetCommands for MachineHandlers {
    fn query_target(&self) -> Result<TargetInfo> {
        Ok(TargetInfo { arch: SysEmuTarget::X86_64 })
    }

    fn query_cpu_definitions(&self) -> Result<Vec<CpuDefinitionInfo>> {
        let supported = self.0.accel().supported_cpu();
        let missing = |base: Base| {
            if base == Base::Host && !supported.kvm {
                return vec!["kvm".to_owned()];
            }
            CpuModel::base(base).facts(supported).unavailable().map(str::to_owned).collect()
        };
        let info = |base: Base| CpuDefinitionInfo {
            name: base.name().into(),
            migration_safe: Some(!base.is_max()),
            static_: base == Base::Base,
            unavailable_features: Some(missing(base)),
            typename: base.class_name().into(),
            alias_of: base.alias_of().map(str::to_owned),
            deprecated: false,
        };
        Ok(Base::all().map(info).collect())
    }

    fn query_cpu_model_expansion(
        &self,
        type_: CpuModelExpansionType,
        model: CpuModelInfo,
    ) -> Result<CpuModelExpansionInfo> {
        let base = Base::find(&model.name)
            .ok_or_else(|| Error::generic(format!("CPU model '{}' not found", model.name)))?;
        let mut cpu = CpuModel::base(base);
        let none = Dict::new();
        let props = match &model.props {
            None => &none,
            Some(Value::Dict(props)) => props,
            Some(_) => {
                return Err(Error::generic("Invalid parameter type for 'model.props', expected: object"));
            }
        };
        for (name, value) in props.iter() {
            cpu.set(name, Input::Json(value), &format!("model.props.{name}"))?;
        }
        let facts = cpu.facts(self.0.accel().supported_cpu());
        let (name, props) = match type_ {
            CpuModelExpansionType::Static => (Base::Base, static_props(&facts)),
            CpuModelExpansionType::Full => (base, full_props(base, &facts)),
        };
        let model = CpuModelInfo { name: name.name().into(), props: Some(props.into()) };
        Ok(CpuModelExpansionInfo { model })
    }
}

fn static_props(facts: &Facts) -> Dict {
    let mut props = Dict::new();
    for setting in SETTINGS.iter().filter(|setting| STATIC_SETTINGS.contains(&setting.name)) {
        props.insert(setting.name, (setting.get)(facts));
    }
    for feature in features() {
        props.insert(feature.name, feature.is_in(&facts.wanted));
    }
    props
}

fn full_props(base: Base, facts: &Facts) -> Dict {
    let mut props = static_props(facts);
    for setting in SETTINGS.iter().filter(|setting| setting.is_of(base)) {
        props.insert(setting.name, (setting.get)(facts));
    }
    for (alias, feature) in ALIASES.iter().filter_map(|(alias, name)| Some((*alias, feature(name)?))) {
        props.insert(alias, feature.is_in(&facts.wanted));
    }
    props
}
