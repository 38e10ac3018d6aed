//! The commands of `schema/net.json`.

use qapi::Result;
use qapi::commands::NetCommands;
use qapi::types::{AnnounceParameters, HumanReadableText, Netdev, PliantNetClient, RxFilterInfo};

use crate::announce::Rounds;
use crate::set::NetSet;

impl NetCommands for NetSet {
    fn netdev_add(&self, arguments: Netdev) -> Result<()> {
        self.add(&arguments).map(drop)
    }

    fn netdev_del(&self, id: String) -> Result<()> {
        self.remove(&id)
    }

    fn set_link(&self, name: String, up: bool) -> Result<()> {
        Self::set_link(self, &name, up)
    }

    fn query_rx_filter(&self, name: Option<String>) -> Result<Vec<RxFilterInfo>> {
        self.rx_filters(name.as_deref())
    }

    fn announce_self(&self, arguments: AnnounceParameters) -> Result<()> {
        let AnnounceParameters { initial, max, rounds, step, interfaces, id } = arguments;
        let Some(me) = self.me() else { return Ok(()) };
        let rounds = Rounds { initial, max, rounds, step };
        Self::announce_self(&me, rounds, interfaces, &id.unwrap_or_default());
        Ok(())
    }

    fn x_pliant_query_network(&self) -> Result<Vec<PliantNetClient>> {
        Ok(self.list())
    }

    fn x_pliant_netdev_add_text(&self, options: String) -> Result<HumanReadableText> {
        self.add_text(&options).map(|text| text.unwrap_or_default().into())
    }
}
